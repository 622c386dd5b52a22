/* tests/fuzz/config_fuzz.c - any bytes, as RUN.yaml: refused with a message, or read into a
 * configuration whose canonical text reads back to itself. */
#include <string.h>

#include "common/config/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    struct config *first = NULL, *second = NULL;
    if (config_parse((const char *)data, size, "run.yaml", "/", &first, &err) < 0) {
        BL_ASSERT(first == NULL && err.text[0] != '\0');
        return 0;
    }
    BL_ASSERT(config_parse(first->text, strlen(first->text), "text", "/", &second, &err) == 0);
    BL_ASSERT(strcmp(first->text, second->text) == 0);
    config_free(&first);
    config_free(&second);
    return 0;
}
