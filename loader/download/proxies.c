/* loader/download/proxies.c - see proxies.h. */
#include "loader/download/proxies.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All addresses of a host. */
static void add_host(struct proxies *p, const char *host, const char *port)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return;
    for (struct addrinfo *a = found; a && p->count < PROXIES_MAX; a = a->ai_next)
        if (a->ai_addrlen <= sizeof p->at[0])
            memcpy(&p->at[p->count++], a->ai_addr, a->ai_addrlen);
    freeaddrinfo(found);
}

/* "http://user:password@host:3128", "host:3128", "host"; libcurl's port is 1080 where none is given. */
static void add_proxy(struct proxies *p, const char *text)
{
    char *host = NULL, *port = NULL;
    CURLU *parts = curl_url();
    if (parts &&
        curl_url_set(parts, CURLUPART_URL, text, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) ==
            CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        size_t length = strlen(host);
        bool bracketed = length > 2 && host[0] == '[';
        if (bracketed)
            host[length - 1] = 0;
        bool given = curl_url_get(parts, CURLUPART_PORT, &port, 0) == CURLUE_OK;
        bool secure = !strncmp(text, "https:", 6);
        add_host(p, host + bracketed, given ? port : secure ? "443" : "1080");
    }
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(parts);
}

void proxies_find(struct proxies *ret)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
                                        "ALL_PROXY"};
    ret->count = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            add_proxy(ret, value);
    }
}

static bool is_equal(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;
    return a->sa_family == AF_INET6 && x->sin6_port == y->sin6_port &&
           !memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr);
}

bool proxies_have(const struct proxies *p, const struct sockaddr *address)
{
    for (int i = 0; i < p->count; i++)
        if (is_equal((const struct sockaddr *)&p->at[i], address))
            return true;
    return false;
}

bool proxies_have_text(const struct proxies *p, const char *address, int port)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &four.sin_addr) == 1)
        return proxies_have(p, (const struct sockaddr *)&four);
    return inet_pton(AF_INET6, address, &six.sin6_addr) == 1 &&
           proxies_have(p, (const struct sockaddr *)&six);
}
