/* common/program.c - see program.h. */
#include "common/program.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/notify.h"

static const struct command *choose(const struct command *command, int argc, char **argv)
{
    while (command->name && (argc < 2 || strcmp(argv[1], command->name) != 0))
        command++;
    return command;
}

int program_folder(char *ret, size_t size, struct bl_error *err)
{
    ssize_t n = readlink("/proc/self/exe", ret, size - 1);
    if (n < 0)
        return bl_fail_errno(err, "this program's own path cannot be read");
    ret[n] = '\0';
    *strrchr(ret, '/') = '\0';
    return 0;
}

/* Each peer takes a descriptor; the usual soft limit of 1024 is there for programs that use select(). */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= BL_DESCRIPTORS_WANTED)
        return;
    limit.rlim_cur =
        limit.rlim_max < BL_DESCRIPTORS_WANTED ? limit.rlim_max : BL_DESCRIPTORS_WANTED;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int program_run(const char *name, const struct command *commands, int argc, char **argv)
{
    const struct command *command = choose(commands, argc, argv);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(command->usage, stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--version")) {
            printf("blipren-%s %s\n", name, BLIPREN_VERSION);
            return 0;
        }
    }
    int chosen = command->name != NULL;
    struct bl_error err;
    bl_notify_begin();
    bl_log_identity(name, "%s", "");
    raise_descriptors();
    int rc = command->run(argc - chosen, argv + chosen, &err);
    if (rc < 0 && err.text[0])
        bl_log_error(&err);
    return rc < 0 ? bl_error_exit_code(rc) : 0;
}
