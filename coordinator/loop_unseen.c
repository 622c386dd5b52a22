/* coordinator/loop_unseen.c - peers on hosts that do not see the run folder: by what they find that out, and where they get its files. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/loop_state.h"
#include "proto/files.h"

int loop_serve_files(struct loop *l, const char *keys, struct bl_error *err)
{
    struct file_service_options options = {
        .run_folder = l->config->run_dir, .keys = keys, .incarnation = l->incarnation};
    char endpoint[SOCKET_ENDPOINT_MAX + 8];
    const char *colon = strrchr(l->endpoint, ':');
    randombytes_buf(l->token, sizeof l->token);
    BL_TRY(files_write_token(l->config->run_dir, l->token, err));
    if (l->options->local && wire_is_loopback(l->endpoint))
        return 0;
    snprintf(endpoint, sizeof endpoint, "%.*s:%lld", (int)(colon - l->endpoint), l->endpoint,
             (long long)l->config->cluster.files_port);
    options.endpoint = endpoint;
    memcpy(options.run, l->run, sizeof options.run);
    memcpy(options.token, l->token, sizeof options.token);
    if (file_service_open(&options, &l->files, &l->files_port, err) < 0)
        return bl_error_key(err, "cluster.files_port");
    return 0;
}

bool loop_can_use(struct loop *l, struct peer *peer, const Blipren__Ended *m)
{
    peer->needs_files = m->needs_files;
    if (!m->needs_files || peer->role != BL_ROLE_WORKER)
        return true;
    bl_log_peer(BL_LOG_INFO, peer->name,
                "peer=%s does not see the run folder: its checkpoints come through here",
                peer->name);
    bool writes_cache = loop_embeds(l) || l->config->cache.fill;
    if (writes_cache)
        loop_refuse(l, peer,
                    "it does not see the run folder, and its run's workers write the feature cache",
                    "mount cache.path and the run folder there");
    return !writes_cache;
}
