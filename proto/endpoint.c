/* proto/endpoint.c - tcp://HOST:PORT: its syntax, and whether it leaves this machine (see socket.h). */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/socket.h"

static const char scheme[] = "tcp://";

/* A name, an IPv4 address, an interface, or "*". ZeroMQ gives other characters meanings of its own
 * ("tcp://SOURCE;HOST:PORT"), which would get past the question below. */
static bool is_host(const char *host, size_t size)
{
    if (size == 1 && *host == '*')
        return true;
    for (size_t i = 0; i < size; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr(".-_", host[i]))
            return false;
    return size > 0;
}

static bool is_port(const char *port)
{
    if (!strcmp(port, "*"))
        return true;
    size_t digits = strspn(port, "0123456789");
    return digits >= 1 && digits <= 5 && !port[digits] && strtol(port, NULL, 10) < 65536;
}

/* The host in endpoint, and its size; 0 bytes: it is no endpoint. */
static size_t find_host(const char *endpoint, const char **ret_host)
{
    if (strncmp(endpoint, scheme, sizeof scheme - 1) != 0 ||
        strlen(endpoint) >= SOCKET_ENDPOINT_MAX)
        return 0;
    *ret_host = endpoint + sizeof scheme - 1;
    const char *colon = strrchr(*ret_host, ':');
    size_t size = colon ? (size_t)(colon - *ret_host) : 0;
    return size && is_host(*ret_host, size) && is_port(colon + 1) ? size : 0;
}

bool wire_is_loopback(const char *endpoint)
{
    const char *host;
    char name[SOCKET_ENDPOINT_MAX], rest;
    unsigned a, b, c, d;
    size_t size = find_host(endpoint, &host);
    snprintf(name, sizeof name, "%.*s", (int)size, size ? host : "");
    if (!strcmp(name, "localhost") || !strcmp(name, "lo"))
        return true;
    return sscanf(name, "%3u.%3u.%3u.%3u%c", &a, &b, &c, &d, &rest) == 4 && a == 127 && b < 256 &&
           c < 256 && d < 256;
}

int wire_check_endpoint(const char *endpoint, bool permitted, struct bl_error *err)
{
    const char *host;
    if (!find_host(endpoint, &host))
        return bl_fail(err, BL_EUSAGE,
                       "expected an address like tcp://127.0.0.1:5555, found \"%.100s\"", endpoint);
    if (permitted || wire_is_loopback(endpoint))
        return 0;
    bl_fail(err, BL_EUSAGE, "%.100s is not on this machine alone, and there are no keys", endpoint);
    return bl_error_remedy(err, "give --keys DIR, a copy of the folder that `blipren-coord keygen "
                                "DIR` makes, or --insecure on a network you trust");
}
