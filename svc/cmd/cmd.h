/* The verbs of quernd that look at a model and end: `quernd VERB …`. argv[0] is the verb. Each
 * prints to standard output (results) and standard error (sentences), and returns the exit code. */
#ifndef QUERN_SVC_CMD_CMD_H
#define QUERN_SVC_CMD_CMD_H

/* Exit codes, those of sysexits.h where it has one. */
enum cmd_exit {
    CMD_OK = 0,
    CMD_USAGE = 64,    /* a wrong option */
    CMD_BAD_DATA = 65, /* a file that is damaged or of a kind not read */
    CMD_NO_INPUT = 66, /* a file that cannot be opened */
    CMD_OURS = 70,     /* memory, disk, or our own mistake */
    CMD_CONFIG = 78,   /* a problem in quern.conf */
};

int cmd_inspect(int argc, char **argv);    /* shapes, types, sizes, what a model would need */
int cmd_logits(int argc, char **argv);     /* raw logits of given token ids, to a file */
int cmd_bench(int argc, char **argv);      /* prefill, decode and memory rates */
int cmd_quantize(int argc, char **argv);   /* a GGUF in another type */
int cmd_pack(int argc, char **argv);       /* the packed image of a model */
int cmd_verify(int argc, char **argv);     /* whether an image is good */
int cmd_pool(int argc, char **argv);       /* huge pages that the configuration asks for */
int cmd_perplexity(int argc, char **argv); /* of a text, token-weighted */

#endif
