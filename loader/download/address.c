/* loader/download/address.c - see address.h. */
#include "loader/download/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct range {
    uint8_t start[16];
    int bits;
};

static const struct range v4[] = {
    {{0}, 8},         {{10}, 8},       {{100, 64}, 10},      {{127}, 8},
    {{169, 254}, 16}, {{172, 16}, 12}, {{192, 0, 0}, 24},    {{192, 0, 2}, 24},
    {{192, 168}, 16}, {{198, 18}, 15}, {{198, 51, 100}, 24}, {{203, 0, 113}, 24},
    {{224}, 4},       {{240}, 4},
};
static const struct range v6[] = {
    {{0}, 127},                 /* unspecified, loopback */
    {{0xfc}, 7},                /* unique local */
    {{0xfe, 0x80}, 10},         /* link-local */
    {{0xfe, 0xc0}, 10},         /* site-local */
    {{0xff}, 8},                /* multicast */
    {{1, 0}, 64},               /* discard */
    {{0x20, 1, 0xd, 0xb8}, 32}, /* documentation */
};
/* Where an IPv4 address is inside. */
static const struct range embedding[] = {
    {{[10] = 0xff, 0xff}, 96},   /* mapped */
    {{0}, 96},                   /* compatible */
    {{0, 0x64, 0xff, 0x9b}, 96}, /* NAT64 */
};

static bool inside(const uint8_t *address, const struct range *range)
{
    int bytes = range->bits / 8, rest = range->bits % 8;
    uint8_t mask = (uint8_t)(0xff << (8 - rest));
    return !memcmp(address, range->start, (size_t)bytes) &&
           (!rest || !((address[bytes] ^ range->start[bytes]) & mask));
}

static bool inside_any(const uint8_t *address, const struct range *ranges, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (inside(address, &ranges[i]))
            return true;
    return false;
}
#define INSIDE_ANY(address, ranges) inside_any(address, ranges, sizeof(ranges) / sizeof *(ranges))

static bool v6_is_private(const uint8_t address[16])
{
    if (INSIDE_ANY(address, v6))
        return true;
    if (INSIDE_ANY(address, embedding))
        return INSIDE_ANY(address + 12, v4);
    /* 6to4 has it behind its prefix */
    return address[0] == 0x20 && address[1] == 2 && INSIDE_ANY(address + 2, v4);
}

bool address_is_private(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return INSIDE_ANY((const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr, v4);
    if (address->sa_family == AF_INET6)
        return v6_is_private(((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr);
    return true;
}

bool address_literal_is_private(const char *host)
{
    uint8_t bytes[16];
    char text[64];
    size_t length = strlen(host);
    bool bracketed = length > 2 && host[0] == '[' && host[length - 1] == ']';
    snprintf(text, sizeof text, "%.*s", (int)(bracketed ? length - 2 : length), host + bracketed);
    bool literal = inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
    return literal && address_text_is_private(text);
}

bool address_text_is_private(const char *text)
{
    uint8_t bytes[16];
    if (inet_pton(AF_INET, text, bytes) == 1)
        return INSIDE_ANY(bytes, v4);
    return inet_pton(AF_INET6, text, bytes) != 1 || v6_is_private(bytes);
}
