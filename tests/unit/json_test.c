/* tests/unit/json_test.c - JSON that we write loses no field, whatever a value is. */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/cleanup.h"
#include "common/json.h"

static void no_value_makes_a_field_disappear(void **state)
{
    struct bl_error err;
    bl_autojson json_t *o = json_object();
    bl_autofree char *line = NULL;
    assert_ok(bl_json_put(o, "nan", bl_json_number(NAN), &err), err);
    assert_ok(bl_json_put(o, "inf", bl_json_number(-INFINITY), &err), err);
    assert_ok(bl_json_put(o, "half", bl_json_number(0.5), &err), err);
    assert_ok(bl_json_put(o, "text", bl_json_text("gr\xc3\xbcn"), &err), err);
    assert_ok(bl_json_put(o, "latin", bl_json_text("gr\xfcn\xe2\x82"), &err), err);
    assert_ok(bl_json_line(o, 17, &line, &err), err);
    assert_string_equal(line, "{\"nan\":null,\"inf\":null,\"half\":0.5,\"text\":\"gr\xc3\xbcn\","
                              "\"latin\":\"gr?n?\"}");
}

static void a_missing_value_is_an_error(void **state)
{
    struct bl_error err;
    bl_autojson json_t *o = json_object();
    char *line = NULL;
    assert_int_equal(bl_json_put(o, "loss", NULL, &err), -BL_ENOMEM);
    assert_int_equal(bl_json_line(NULL, 17, &line, &err), -BL_ENOMEM);
}

UNIT_MAIN(cmocka_unit_test(no_value_makes_a_field_disappear),
          cmocka_unit_test(a_missing_value_is_an_error))
