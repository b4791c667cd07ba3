/* Families and their templates (see family.h). The hashes are XXH3 of the templates as the models'
 * tokenizer_config.json and GGUF files carry them; tests/golden/chat has their text. */
#define _GNU_SOURCE /* memmem */
#include "chat/family.h"

#include <stdint.h>
#include <string.h>
#include <xxhash.h>

static const struct family {
    const char *name;
    const char *system;
    enum chat_call_form calls;
} families[CHAT_FAMILIES] = {
    [CHAT_QWEN2] = {"qwen2", "You are a helpful assistant.", CHAT_CALLS_FLOWER},
    [CHAT_QWEN1_5] = {"qwen1.5", "You are a helpful assistant", CHAT_CALLS_NONE},
    [CHAT_QWEN1_5_EARLY] = {"qwen1.5-early", "You are a helpful assistant", CHAT_CALLS_NONE},
    [CHAT_QWEN2_5] = {"qwen2.5",
                      "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
                      CHAT_CALLS_TAGS},
    [CHAT_QWEN2_5_BASE] = {"qwen2.5-base", "You are a helpful assistant.", CHAT_CALLS_TAGS},
    [CHAT_QWEN2_5_MATH] = {"qwen2.5-math",
                           "Please reason step by step, and put your final answer within "
                           "\\boxed{}.",
                           CHAT_CALLS_TAGS},
};

static const struct {
    uint64_t hash; /* XXH3_64bits */
    uint32_t length;
    enum chat_family family;
} templates[] = {
    {UINT64_C(0xd5d943bd0bd9082f), 328, CHAT_QWEN2},
    {UINT64_C(0x20f20c2b5139eaee), 327, CHAT_QWEN1_5},
    {UINT64_C(0xf40d3b263dcc40bf), 443, CHAT_QWEN1_5_EARLY},
    {UINT64_C(0x639547fe4d33fa67), 2507, CHAT_QWEN2_5},
    {UINT64_C(0x4b314006a433de3f), 2427, CHAT_QWEN2_5_BASE},
    {UINT64_C(0x1226da35c7d12b27), 2513, CHAT_QWEN2_5_MATH},
};

const char *chat_family_name(enum chat_family family)
{
    return families[family].name;
}

bool chat_family_by_name(const char *name, enum chat_family *ret)
{
    for (int i = 0; i < CHAT_FAMILIES; i++) {
        if (strcmp(name, families[i].name))
            continue;
        *ret = (enum chat_family)i;
        return true;
    }
    return false;
}

const char *chat_family_system(enum chat_family family)
{
    return families[family].system;
}

enum chat_call_form chat_family_calls(enum chat_family family)
{
    return families[family].calls;
}

const char *chat_known_name(enum chat_known known)
{
    static const char *const names[] = {"recognised", "executed", "closest", "built-in"};

    return names[known];
}

static bool has(const char *s, size_t n, const char *part)
{
    return n > 0 && memmem(s, n, part, strlen(part)) != NULL;
}

/* What an unknown template says, where it says it as a known one does. */
static bool closest(const char *s, size_t n, enum chat_family *ret)
{
    bool stop = has(s, n, "system\nYou are a helpful assistant.<|im_end|>") ||
                has(s, n, "system\\nYou are a helpful assistant.<|im_end|>");
    bool no_stop = has(s, n, "system\nYou are a helpful assistant<|im_end|>") ||
                   has(s, n, "system\\nYou are a helpful assistant<|im_end|>");

    if (has(s, n, families[CHAT_QWEN2_5].system))
        *ret = CHAT_QWEN2_5;
    else if (has(s, n, "Please reason step by step, and put your final answer within"))
        *ret = CHAT_QWEN2_5_MATH;
    else if (stop)
        *ret = has(s, n, "<tool_call>") ? CHAT_QWEN2_5_BASE : CHAT_QWEN2;
    else if (no_stop)
        *ret = has(s, n, "(loop.last and add_generation_prompt) or not loop.last")
                   ? CHAT_QWEN1_5_EARLY
                   : CHAT_QWEN1_5;
    else
        return false;
    return true;
}

enum chat_family chat_family_of(const char *jinja, size_t n, enum chat_known *ret_known)
{
    enum chat_family family = CHAT_QWEN2;
    uint64_t hash = n > 0 ? XXH3_64bits(jinja, n) : 0;

    for (size_t i = 0; n > 0 && i < sizeof templates / sizeof *templates; i++) {
        if (templates[i].length != n || templates[i].hash != hash)
            continue;
        *ret_known = CHAT_KNOWN;
        return templates[i].family;
    }
    *ret_known = closest(jinja, n, &family) ? CHAT_CLOSEST : CHAT_FALLBACK;
    return family;
}
