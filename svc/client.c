/* One connected program (see client.h). */
#include "svc/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int client_new(struct client **ret, struct client_list *list, const struct ipc_peer *peer,
               uint64_t number, struct account *account)
{
    struct ipc_session *session;
    int r = ipc_session_new(&session, peer);
    if (r < 0)
        return r;
    struct client *c = calloc(1, sizeof *c);
    if (!c) {
        ipc_session_free(session);
        return -ENOMEM;
    }
    c->session = session;
    c->number = number;
    c->account = account;
    c->list = list;
    c->next = list->all;
    if (c->next)
        c->next->prev = c;
    list->all = c;
    list->n++;
    *ret = c;
    return 0;
}

void client_wake(struct client *client)
{
    struct client *c = client;
    if (c->is_busy)
        return;
    c->is_busy = true;
    c->prev_busy = NULL;
    c->next_busy = c->list->busy;
    if (c->next_busy)
        c->next_busy->prev_busy = c;
    c->list->busy = c;
}

static void leave_busy(struct client *c)
{
    *(c->prev_busy ? &c->prev_busy->next_busy : &c->list->busy) = c->next_busy;
    if (c->next_busy)
        c->next_busy->prev_busy = c->prev_busy;
    c->is_busy = false;
}

void client_rest(struct client *client)
{
    if (client->is_busy && !client->awake && !client->broken && client->n_requests == 0)
        leave_busy(client);
}

static void move_to(struct client *c, struct client **from, struct client **to)
{
    *(c->prev ? &c->prev->next : from) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->prev = NULL;
    c->next = *to;
    if (c->next)
        c->next->prev = c;
    *to = c;
}

int client_bury(struct client *client, const struct ipc_undertaker *undertaker)
{
    struct client *c = client;
    struct client_list *list = c->list;
    if (c->is_busy)
        leave_busy(c);
    if (!c->is_leaving) {
        move_to(c, &list->all, &list->leaving);
        list->n--;
    }
    c->is_leaving = true;
    int r = ipc_session_bury(c->session, undertaker, !c->leave, (uint64_t)(uintptr_t)c);
    if (r == -EAGAIN)
        return r;
    c->session = NULL;
    move_to(c, &list->leaving, &list->buried);
    return r;
}

void client_free(struct client *client)
{
    *(client->prev ? &client->prev->next : &client->list->buried) = client->next;
    if (client->next)
        client->next->prev = client->prev;
    free(client);
}

struct journal_context client_context(const struct client *client, uint64_t request)
{
    const struct ipc_peer *peer = ipc_session_peer(client->session);
    return (struct journal_context){
        .session = client->number, .uid = peer->uid, .pid = peer->pid, .request = request};
}

void client_fail(struct client *client, int error)
{
    if (client->broken)
        return;
    client->broken = true;
    client->violated = error == -EPROTO;
    client_wake(client); /* so that it is found and closed */
    if (error == -EPROTO)
        snprintf(client->why, sizeof client->why, "%s", ipc_session_why(client->session));
    else if (error == -ECONNRESET)
        snprintf(client->why, sizeof client->why, "it hung up");
    else
        snprintf(client->why, sizeof client->why, "%s", strerror(-error));
}
