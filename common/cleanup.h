/* common/cleanup.h - what is acquired is released where its name goes out of scope.
 *
 *   bl_autofree char *text = NULL;      freed at the end of the block
 *   bl_autofd int fd = open(…);         closed there unless negative
 *   bl_auto(bl_thing) struct bl_thing *thing = NULL;   calls bl_thing_free(&thing)
 *   return bl_take(&text);              hands ownership on: text becomes NULL
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void bl_cleanup_free_(void *p)
{
    free(*(void **)p);
}
static inline void bl_cleanup_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
static inline void bl_cleanup_fclose_(FILE **f)
{
    if (*f)
        fclose(*f);
}

#define bl_autofree __attribute__((cleanup(bl_cleanup_free_)))
#define bl_autofd __attribute__((cleanup(bl_cleanup_fd_)))
#define bl_autofclose __attribute__((cleanup(bl_cleanup_fclose_)))
/* noun##_free takes a pointer to the pointer, accepts NULL inside and sets it NULL. */
#define bl_auto(noun) __attribute__((cleanup(noun##_free)))

#define bl_take(p)                                                                                 \
    __extension__({                                                                                \
        __typeof__(*(p)) bl_taken_ = *(p);                                                         \
        *(p) = NULL;                                                                               \
        bl_taken_;                                                                                 \
    })
