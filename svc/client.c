/* One connected program (see client.h). */
#include "svc/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int client_new(struct client **ret, const struct ipc_peer *peer, uint64_t number,
               struct account *account)
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
    *ret = c;
    return 0;
}

void client_free(struct client *client)
{
    if (!client)
        return;
    if (client->leave)
        ipc_session_leave(client->session);
    else
        ipc_session_free(client->session);
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
    if (error == -EPROTO)
        snprintf(client->why, sizeof client->why, "%s", ipc_session_why(client->session));
    else if (error == -ECONNRESET)
        snprintf(client->why, sizeof client->why, "it hung up");
    else
        snprintf(client->why, sizeof client->why, "%s", strerror(-error));
}
