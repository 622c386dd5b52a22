/* common/models/families.c - the families that are read: one row each. */
#include "common/models/family.h"

#include <stdio.h>
#include <string.h>

static const struct vision_family *const vision_families[] = {
    &family_siglip,
    &family_vit,
};

static const struct llm_family *const llm_families[] = {
    &family_llama,
};

enum {
    VISION_COUNT = sizeof vision_families / sizeof *vision_families,
    LLM_COUNT = sizeof llm_families / sizeof *llm_families
};

static bool is_one_of(const char *type, const char *const types[HF_MODEL_TYPES_MAX])
{
    for (int i = 0; i < HF_MODEL_TYPES_MAX && types[i]; i++)
        if (!strcmp(type, types[i]))
            return true;
    return false;
}

const struct vision_family *vision_family_find(const char *model_type, bool *ret_nested)
{
    for (int i = 0; model_type && i < VISION_COUNT; i++) {
        const struct vision_family *family = vision_families[i];
        *ret_nested = family->combined && !strcmp(model_type, family->combined);
        if (*ret_nested || is_one_of(model_type, family->model_types))
            return family;
    }
    return NULL;
}

const struct llm_family *llm_family_find(const char *model_type)
{
    for (int i = 0; model_type && i < LLM_COUNT; i++)
        if (is_one_of(model_type, llm_families[i]->model_types))
            return llm_families[i];
    return NULL;
}

const struct hf_tensor *hf_tensor_of(const struct hf_names *names, enum hf_role role)
{
    for (int i = 0; i < names->count; i++)
        if (names->tensors[i].role == role)
            return &names->tensors[i];
    return NULL;
}

/* -- what is read, for messages: texts of each thread -- */

enum { TEXT_BYTES = 256, ITEMS_MAX = 16 };

struct items {
    const char *at[ITEMS_MAX];
    int count;
};

static void add(struct items *items, const char *item)
{
    BL_ASSERT(items->count < ITEMS_MAX);
    items->at[items->count++] = item;
}

static void add_types(struct items *items, const char *const types[HF_MODEL_TYPES_MAX])
{
    for (int i = 0; i < HF_MODEL_TYPES_MAX && types[i]; i++)
        add(items, types[i]);
}

/* "a, b or c", at the end of `text`. */
static void append(char *text, const struct items *items)
{
    size_t used = strlen(text);
    for (int i = 0; i < items->count; i++) {
        const char *before = i == 0 ? "" : i == items->count - 1 ? " or " : ", ";
        used += (size_t)snprintf(text + used, TEXT_BYTES - used, "%s%s", before, items->at[i]);
        BL_ASSERT(used < TEXT_BYTES);
    }
}

const char *vision_family_types(void)
{
    static _Thread_local char text[TEXT_BYTES];
    struct items items = {0};
    for (int i = 0; i < VISION_COUNT; i++) {
        if (vision_families[i]->combined)
            add(&items, vision_families[i]->combined);
        add_types(&items, vision_families[i]->model_types);
    }
    text[0] = '\0';
    append(text, &items);
    return text;
}

const char *llm_family_types(void)
{
    static _Thread_local char text[TEXT_BYTES];
    struct items items = {0};
    for (int i = 0; i < LLM_COUNT; i++)
        add_types(&items, llm_families[i]->model_types);
    text[0] = '\0';
    append(text, &items);
    return text;
}

const char *family_names(void)
{
    static _Thread_local char text[TEXT_BYTES];
    struct items vision = {0}, llm = {0};
    for (int i = 0; i < VISION_COUNT; i++)
        add(&vision, vision_families[i]->name);
    for (int i = 0; i < LLM_COUNT; i++)
        add(&llm, llm_families[i]->name);
    text[0] = '\0';
    append(text, &vision);
    strcat(text, ", ");
    append(text, &llm);
    return text;
}
