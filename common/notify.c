/* common/notify.c - see notify.h. */
#include "common/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BEATS_PER_INTERVAL 4

static struct {
    int fd; /* connected to the manager's socket; -1: nobody is told */
    bool ready;
    uint64_t interval_us; /* of the watchdog; 0: there is none */
    uint64_t last_us;
} notify = {.fd = -1};

static void send_text(const char *text)
{
    if (notify.fd >= 0)
        (void)send(notify.fd, text, strlen(text),
                   MSG_NOSIGNAL | MSG_DONTWAIT); /* or it is not told */
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* A path, or "@name" in the abstract namespace, whose first byte is NUL. */
static int connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || length >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, name, length);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, size) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void bl_notify_begin(void)
{
    const char *name = getenv("NOTIFY_SOCKET"), *interval = getenv("WATCHDOG_USEC"),
               *process = getenv("WATCHDOG_PID");
    if (notify.fd >= 0)
        close(notify.fd);
    memset(&notify, 0, sizeof notify);
    notify.fd = name ? connect_to(name) : -1;
    if (interval && (!process || strtol(process, NULL, 10) == getpid()))
        notify.interval_us = strtoull(interval, NULL, 10);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void bl_notify_ready(const char *format, ...)
{
    char status[512], text[640];
    va_list arguments;
    if (notify.fd < 0)
        return;
    va_start(arguments, format);
    vsnprintf(status, sizeof status, format, arguments);
    va_end(arguments);
    for (char *c = status; *c; c++)
        if (*c == '\n')
            *c = ' '; /* which would end the field */
    snprintf(text, sizeof text, "%sSTATUS=%s", notify.ready ? "" : "READY=1\n", status);
    notify.ready = true;
    send_text(text);
}

void bl_notify_alive(void)
{
    uint64_t now = now_us();
    if (!notify.ready || !notify.interval_us ||
        now - notify.last_us < notify.interval_us / BEATS_PER_INTERVAL)
        return;
    notify.last_us = now;
    send_text("WATCHDOG=1");
}

void bl_notify_stopping(void)
{
    send_text("STOPPING=1");
}
