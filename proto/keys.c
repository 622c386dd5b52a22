/* proto/keys.c - see keys.h. */
#include "proto/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/cleanup.h"
#include "common/file.h"

static int keys_path(const char *folder, char ret[4096], struct bl_error *err)
{
    return bl_path_join(ret, 4096, folder, KEYS_FILE, err);
}

/* -- making -- */

static int write_keys(int fd, const struct keys *keys, struct bl_error *err)
{
    int written = dprintf(fd,
                          "# BLIPren: whoever has this file belongs to the cluster\n"
                          "public %s\n"
                          "secret %s\n",
                          keys->public_key, keys->secret_key);
    if (written < 0 || fsync(fd) != 0)
        return bl_fail_errno(err, "it cannot be written");
    return 0;
}

int keys_make(const char *folder, struct bl_error *err)
{
    char path[4096];
    struct keys keys;
    BL_TRY(keys_path(folder, path, err));
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        bl_fail_errno(err, "the folder cannot be made");
        return bl_error_file(err, folder);
    }
    if (zmq_curve_keypair(keys.public_key, keys.secret_key) != 0)
        return bl_fail(err, BL_EIO, "no key pair can be made: %s", zmq_strerror(errno));
    bl_autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = 0;
    if (fd < 0 && errno == EEXIST) {
        rc = bl_fail(err, BL_EUSAGE, "there is a key already, which running programs may use");
        bl_error_remedy(err, "choose another folder, or remove that file first");
    } else if (fd < 0) {
        rc = bl_fail_errno(err, "it cannot be made");
    } else {
        rc = write_keys(fd, &keys, err);
    }
    sodium_memzero(&keys, sizeof keys);
    return rc < 0 ? bl_error_file(err, path) : 0;
}

/* -- reading -- */

static int check_mode(const char *path, struct bl_error *err)
{
    struct stat s;
    if (stat(path, &s) != 0) {
        bl_fail_errno(err, "the cluster's key cannot be read");
        return bl_error_remedy(err,
                               "make one by `blipren-coord keygen DIR`, and copy that folder to "
                               "every host");
    }
    if (!(s.st_mode & 077) && (s.st_uid == geteuid() || s.st_uid == 0))
        return 0;
    if (s.st_mode & 077)
        bl_fail(err, BL_EUSAGE, "expected mode 0600, found %04o: others may use this secret",
                (unsigned)s.st_mode & 07777);
    else
        bl_fail(err, BL_EUSAGE, "it belongs to another user, of number %u", (unsigned)s.st_uid);
    return bl_error_remedy(err,
                           "chown it to this user and chmod 600 it, or, if others have read it, "
                           "make a new one");
}

/* The word after `name` at the beginning of a line. */
static bool find_key(const char *text, const char *name, char ret[KEYS_TEXT_SIZE])
{
    char format[32];
    int end = 0;
    snprintf(format, sizeof format, "%s %%40s%%n", name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (sscanf(line, format, ret, &end) == 1 && strlen(ret) == KEYS_TEXT_SIZE - 1 &&
            (line[end] == '\n' || !line[end]))
            return true;
    }
    return false;
}

static int parse(const char *text, struct keys *ret, struct bl_error *err)
{
    char derived[KEYS_TEXT_SIZE];
    if (find_key(text, "public", ret->public_key) && find_key(text, "secret", ret->secret_key) &&
        zmq_curve_public(derived, ret->secret_key) == 0 && !strcmp(derived, ret->public_key))
        return 0;
    bl_fail(err, BL_EFORMAT,
            "expected the lines \"public KEY\" and \"secret KEY\" of one key pair");
    return bl_error_remedy(err,
                           "copy it once more from the host where `blipren-coord keygen` made it");
}

int keys_read(const char *folder, struct keys *ret, struct bl_error *err)
{
    char path[4096];
    char *text = NULL;
    size_t size = 0;
    BL_TRY(keys_path(folder, path, err));
    if (check_mode(path, err) < 0 || bl_file_read(path, 4096, &text, &size, err) < 0)
        return bl_error_file(err, path);
    int rc = parse(text, ret, err);
    sodium_memzero(text, size);
    free(text);
    return rc < 0 ? bl_error_file(err, path) : 0;
}
