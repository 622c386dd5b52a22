/* common/config/print.c - values as YAML. */
#include "common/config/parts.h"

#include <math.h>
#include <stdlib.h>

void config_print_real(FILE *out, double value)
{
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    fputs(digits, out);
}

/* As YAML and JSON both read it. */
void config_print_text(FILE *out, const char *text)
{
    putc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7f)
            fprintf(out, "\\u%04x", *c);
        else
            putc(*c, out);
    putc('"', out);
}

void config_print_filter(FILE *out, const struct config_filter *filter)
{
    fputs("{column: ", out);
    config_print_text(out, filter->column);
    if (isfinite(filter->min)) {
        fputs(", min: ", out);
        config_print_real(out, filter->min);
    }
    if (isfinite(filter->max)) {
        fputs(", max: ", out);
        config_print_real(out, filter->max);
    }
    putc('}', out);
}

static void print_trace(FILE *out, const struct config_caption *caption)
{
    static const char *const labels[] = {"both", "trace", "caption"};
    const char *const texts[] = {caption->trace, caption->open, caption->close};
    static const char *const names[] = {"trace", "open", "close"};
    for (int i = 0; i < 3; i++) {
        fprintf(out, ", %s: ", names[i]);
        config_print_text(out, texts[i]);
    }
    fprintf(out, ", labels: %s", labels[caption->labels]);
}

void config_print_captions(FILE *out, const struct config_caption *at, size_t count)
{
    putc('[', out);
    for (size_t i = 0; i < count; i++) {
        fputs(i ? ", {column: " : "{column: ", out);
        config_print_text(out, at[i].column);
        fputs(", prefix: ", out);
        config_print_text(out, at[i].prefix);
        if (!*at[i].join)
            fputs(", join: \"\"", out);
        if (at[i].trace)
            print_trace(out, &at[i]);
        putc('}', out);
    }
    putc(']', out);
}

/* A text, or auto. */
void config_print_path(FILE *out, const char *text, enum hub_kind hub)
{
    char name[HUB_NAME_MAX + HUB_REVISION_MAX];
    if (!text)
        fputs("auto", out);
    else
        config_print_text(out, hub != HUB_NONE && hub_name(text, name, sizeof name) ? name : text);
}
