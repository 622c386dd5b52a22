/* tests/unit/unit.h - what every unit test includes: cmocka in its required order, and a main. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNIT_MAIN(...)                                                                             \
    int main(void)                                                                                 \
    {                                                                                              \
        const struct CMUnitTest tests[] = {__VA_ARGS__};                                           \
        return cmocka_run_group_tests(tests, NULL, NULL);                                          \
    }

/* A call that must succeed; a failure prints the error's line. */
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            char line_[1600];                                                                      \
            bl_error_format(&(err), line_, sizeof line_);                                          \
            fail_msg("%s: %s", #call, line_);                                                      \
        }                                                                                          \
    } while (0)
