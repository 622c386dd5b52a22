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

/* name, exit code of a program that ends with it, meaning, what to do where nobody knows better */
#define BL_ERROR_CODES(X)                                                                          \
    X(USAGE, 2, "the command line is wrong", "--help says how this program is used")               \
    X(CONFIG, 3, "the configuration is wrong", "docs/config.md describes every key")               \
    X(FORMAT, 4, "a file's content is wrong", "restore the original file")                         \
    X(IO, 5, "the operating system refused a file or socket operation",                            \
      "check the path and its permissions")                                                        \
    X(NOMEM, 6, "memory ran out", "free some memory, or lower train.micro_batch")                  \
    X(PROTO, 7, "a peer broke the protocol", "install the same version of BLIPren on every host")  \
    X(PEER, 8, "a peer is lost or refused", "see that peer's own log")                             \
    X(DEVICE, 9, "the compute device failed", "see the system's log (dmesg)")                      \
    X(LIMIT, 10, "a limit was exceeded", "make it smaller; the limit protects this machine")       \
    X(DATA, 11, "too much of the data is bad",                                                     \
      "`blipren-loader inspect RUN.yaml` shows what is dropped and why")                           \
    X(STOPPED, 12, "stopped on request before the end", "the same command resumes from there")     \
    X(TAKEN, 13, "another coordinator has taken the run over",                                     \
      "the run continues there; RUN/lock names its host and process")

enum bl_error_code {
    BL_OK = 0,
#define X(name, exit_code, meaning, remedy) BL_E##name,
    BL_ERROR_CODES(X)
#undef X
};

struct bl_error {
    int code;         /* positive BL_E…, 0 = nothing recorded */
    int os_error;     /* errno of bl_fail_errno, or 0 */
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

#if defined(__clang_analyzer__) && !defined(BL_ERROR_DEFINITIONS)
/* That a failure is negative cannot be seen from the declarations; with it the analyzer knows that what a function gives back
 * on success is there. */
#define BL_NEGATIVE(call)                                                                          \
    ({                                                                                             \
        int bl_negative_ = (call);                                                                 \
        if (bl_negative_ >= 0)                                                                     \
            __builtin_unreachable();                                                               \
        bl_negative_;                                                                              \
    })
#define bl_fail(...) BL_NEGATIVE(bl_fail(__VA_ARGS__))
#define bl_fail_errno(...) BL_NEGATIVE(bl_fail_errno(__VA_ARGS__))
#define bl_error_file(...) BL_NEGATIVE(bl_error_file(__VA_ARGS__))
#define bl_error_key(...) BL_NEGATIVE(bl_error_key(__VA_ARGS__))
#define bl_error_peer(...) BL_NEGATIVE(bl_error_peer(__VA_ARGS__))
#define bl_error_remedy(...) BL_NEGATIVE(bl_error_remedy(__VA_ARGS__))
#endif

/* Gives an error without a remedy the common one of its code or of its errno: for whoever shows it. */
void bl_error_complete(struct bl_error *err);

/* Writes the one-line form into buffer (always terminated). What does not belong in a line becomes '?' (utf8_clean). */
void bl_error_format(const struct bl_error *err, char *buffer, unsigned long size);

/* The process exit code of an error code; "CONFIG" and the like for logs. */
int bl_error_exit_code(int code);
const char *bl_error_name(int code);
/* The code of that name; BL_OK of none, BL_EPEER of one this version does not know. */
int bl_error_code(const char *name);

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
