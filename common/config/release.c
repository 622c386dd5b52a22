/* common/config/release.c - giving back what a configuration holds. */
#include "common/config/parts.h"

#include <stdlib.h>

static void release_captions(struct config_captions *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->at[i].column);
        free(list->at[i].prefix);
        free(list->at[i].join);
        free(list->at[i].trace);
        free(list->at[i].open);
        free(list->at[i].close);
    }
    free(list->at);
}

static void release_sources(struct config_sources *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->at[i].source);
        free(list->at[i].image_column);
        free(list->at[i].validation_source);
        release_captions(&list->at[i].captions);
    }
    free(list->at);
}

void config_free(struct config **config)
{
    struct config *c = *config;
    if (!c)
        return;
    const struct config_key *key;
    for (size_t i = 0; (key = config_key_at(i)); i++) {
        void *at = (char *)c + key->offset;
        switch (key->type) {
        case CONFIG_TEXT:
        case CONFIG_PATH:
            free(*(char **)at);
            break;
        case CONFIG_PATTERNS: {
            struct config_strings *list = at;
            for (size_t j = 0; j < list->count; j++)
                free(list->at[j]);
            free(list->at);
            break;
        }
        case CONFIG_CAPTIONS:
            release_captions(at);
            break;
        case CONFIG_SOURCES:
            release_sources(at);
            break;
        case CONFIG_FILTERS: {
            struct config_filters *list = at;
            for (size_t j = 0; j < list->count; j++)
                free(list->at[j].column);
            free(list->at);
            break;
        }
        default:
            break;
        }
    }
    free(c->vision.plan_path);
    free(c->llm.plan_path);
    free(c->hub.at);
    free(c->text);
    free(c);
    *config = NULL;
}
