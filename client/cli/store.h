/* Where models lie on this machine, what they are called, and what their bytes are. */
#ifndef QUERN_CLIENT_CLI_STORE_H
#define QUERN_CLIENT_CLI_STORE_H

#include <limits.h>
#include <stddef.h>

#define STORE_DIGEST 65 /* SHA-256 in hexadecimal, and a zero */

/* The folder of models: `given`; else /var/lib/quern/models where this user may write there; else
 * $XDG_DATA_HOME/quern/models or ~/.local/share/quern/models, which is made. 0 or an exit code
 * after a sentence. */
int store_folder(const char *given, char ret[PATH_MAX]);

/* ret = folder/name + suffix. 0 or an exit code after a sentence. */
int store_path(char ret[PATH_MAX], const char *folder, const char *name, const char *suffix);

/* Whether a file may be called so: letters, digits, ".", "_", "-", not first a dot, ending .gguf. */
int store_name_is_good(const char *name);

/* Of how many files the set is that a name belongs to (NAME-00001-of-00003.gguf), and which one of it
 * this is; 1, and `ret_part` left alone, for a model that is one file. */
int store_parts(const char *name, unsigned *ret_part);

/* Makes the name of a file of a set that of another one. */
void store_part_name(char *name, unsigned part);

/* The address of an official file by a short name as qwen2:0.5b-instruct-q4_k_m, under $HF_ENDPOINT or
 * https://huggingface.co: of its part 1, 2…. Of how many parts the model is; 0: `word` is no such name. */
int store_short_name(const char *word, int part, char *ret, size_t ret_size);

/* Prints the short names that there are. */
void store_list_short_names(void);

/* The SHA-256 of a file. 0 or -errno. */
int store_digest(const char *path, char ret[STORE_DIGEST]);

/* The digest that was noted in NAME.sha256 (the form of sha256sum). 0 or -errno. */
int store_read_noted(const char *path, char ret[STORE_DIGEST]);
int store_note(const char *path, const char *digest, const char *name);

#endif
