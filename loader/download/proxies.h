/* loader/download/proxies.h - where the proxies are that libcurl takes from the environment. A connection to one says nothing of
 * where its answers come from, so it must not be taken for one to a private address. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

enum { PROXIES_MAX = 16 };

struct proxies {
    struct sockaddr_storage at[PROXIES_MAX]; /* address and port */
    int count;
};

/* Those of http_proxy, https_proxy, HTTPS_PROXY, all_proxy and ALL_PROXY. Asks for their names' addresses; one that has none is
 * left out. */
void proxies_find(struct proxies *ret);
bool proxies_have(const struct proxies *proxies, const struct sockaddr *address);
/* The same of "10.0.0.1" and a port. */
bool proxies_have_text(const struct proxies *proxies, const char *address, int port);
