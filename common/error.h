/* common/error.h - the one way a failure travels: an int code and a filled struct bl_error.
 *
 * A fallible function returns 0 or -BL_E…, and takes `struct bl_error *err` last, which may be
 * NULL. The error owns no memory (fixed arrays, longer texts are cut), so it lives on the stack and
 * is copied freely. The printed form is one line:  FILE: key KEY: peer PEER: TEXT; REMEDY
 */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/* name, exit code of a program that ends with it, meaning */
#define BL_ERROR_CODES(X)                                                                          \
    X(USAGE, 2, "the command line is wrong")                                                       \
    X(CONFIG, 3, "the configuration is wrong")                                                     \
    X(FORMAT, 4, "a file's content is wrong")                                                      \
    X(IO, 5, "the operating system refused a file or socket operation")                            \
    X(NOMEM, 6, "memory ran out")                                                                  \
    X(PROTO, 7, "a peer broke the protocol")                                                       \
    X(PEER, 8, "a peer is lost or refused")                                                        \
    X(DEVICE, 9, "the compute device failed")                                                      \
    X(LIMIT, 10, "a limit was exceeded")                                                           \
    X(DATA, 11, "too much of the data is bad")                                                     \
    X(STOPPED, 12, "stopped on request before the end")

enum bl_error_code {
    BL_OK = 0,
#define X(name, exit_code, meaning) BL_E##name,
    BL_ERROR_CODES(X)
#undef X
};

struct bl_error {
    int code;         /* positive BL_E…, 0 = nothing recorded */
    char file[512];   /* file concerned, or "" */
    char key[128];    /* configuration key, tensor or field, or "" */
    char peer[128];   /* peer concerned, or "" */
    char text[512];   /* what was expected and what was found */
    char remedy[256]; /* what the user can do, or "" */
};

/* Fills *err (NULL is fine) with code and a formatted text, clearing the other fields. Returns
 * -code. */
int bl_fail(struct bl_error *err, enum bl_error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with errno's text appended: "TEXT: No such file or directory". code is BL_EIO. */
int bl_fail_errno(struct bl_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Outer layers add what they know; each keeps what an inner layer set already. NULL err is fine.
 * All return -err->code, so that `return bl_error_file(err, path);` passes the failure on. */
int bl_error_file(struct bl_error *err, const char *file);
int bl_error_key(struct bl_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int bl_error_peer(struct bl_error *err, const char *peer);
int bl_error_remedy(struct bl_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Writes the one-line form into buffer (always terminated). Control characters become '?'. */
void bl_error_format(const struct bl_error *err, char *buffer, unsigned long size);

/* The process exit code of an error code; "CONFIG" and the like for logs. */
int bl_error_exit_code(int code);
const char *bl_error_name(int code);

/* Passes a failure on. With the cleanup attributes of cleanup.h an early return leaks nothing. */
#define BL_TRY(call)                                                                               \
    do {                                                                                           \
        int bl_try_rc_ = (call);                                                                   \
        if (bl_try_rc_ < 0)                                                                        \
            return bl_try_rc_;                                                                     \
    } while (0)

/* Only our own bugs: prints both values and aborts, in release builds too. */
#define BL_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            bl_assert_failed(#cond, __FILE__, __LINE__, __func__);                                 \
    } while (0)
#define BL_ASSERT_CMP(a, op, b)                                                                    \
    do {                                                                                           \
        long long bl_a_ = (long long)(a), bl_b_ = (long long)(b);                                  \
        if (__builtin_expect(!(bl_a_ op bl_b_), 0))                                                \
            bl_assert_failed_cmp(#a " " #op " " #b, bl_a_, bl_b_, __FILE__, __LINE__, __func__);   \
    } while (0)
__attribute__((noreturn)) void bl_assert_failed(const char *cond, const char *file, int line,
                                                const char *func);
__attribute__((noreturn)) void bl_assert_failed_cmp(const char *cond, long long a, long long b,
                                                    const char *file, int line, const char *func);

#ifdef __cplusplus
}
#endif
