/*
 * Where keys are, and modules of OpenSSL: what is told apart by its text alone. The rest needs tokens and engines: tests/e2e/test_keys.py.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_modules.h"
#include "tls_place.h"
#include "tls_prompt.h"

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <string.h>

Test(keys, files_and_tokens)
{
	static const char *const files[] = {
		"/etc/key.pem", "key.pem", "file:/etc/key.pem", "FILE:///etc/key.pem", "", ":", "x:", "a b:c",
		"./pkcs11:key", "-"};
	static const char *const tokens[] = {"pkcs11:", "pkcs11:token=a;object=b", "PKCS11:object=b", "tpm2:0x81000001",
	                                     "a+b-c.d:e"};

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		cr_expect_not(place_is_token(files[i]), "%s", files[i]);
	for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++)
		cr_expect(place_is_token(tokens[i]), "%s", tokens[i]);
}

Test(keys, a_pin_is_never_shown)
{
	static const struct {
		const char *place, *shown;
	} cases[] = {
		{"/etc/key.pem", "/etc/key.pem"},
		{"pkcs11:token=a;object=b", "pkcs11:token=a;object=b"},
		{"pkcs11:token=a?pin-value=1234", "pkcs11:token=a?pin-value=..."},
		{"pkcs11:pin-value=1234;token=a", "pkcs11:pin-value=...;token=a"},
		{"pkcs11:token=a?PIN-VALUE=12&module-name=x", "pkcs11:token=a?PIN-VALUE=...&module-name=x"},
		{"pkcs11:token=a?pin-value=", "pkcs11:token=a?pin-value=..."},
		{"pkcs11:token=a?pin-value=1&pin-value=2", "pkcs11:token=a?pin-value=...&pin-value=..."},
		{"", ""},
	};
	char text[PLACE_TEXT_MAX];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		cr_expect_str_eq(place_text(cases[i].place, text), cases[i].shown);
}

Test(keys, a_long_place_is_cut)
{
	char place[3 * PLACE_TEXT_MAX], text[PLACE_TEXT_MAX];

	memset(place, 'x', sizeof(place));
	memcpy(place, "pkcs11:pin-value=", 17);
	place[sizeof(place) - 1] = '\0';
	cr_expect_str_eq(place_text(place, text), "pkcs11:pin-value=...");
	memset(place, 'x', sizeof(place) - 1);
	cr_expect_eq(strlen(place_text(place, text)), PLACE_TEXT_MAX - 1);
	/* The PIN behind what is cut off. */
	memcpy(place + PLACE_TEXT_MAX - 12, "pin-value=1234", 14);
	cr_expect_null(strstr(place_text(place, text), "1234"));
}

Test(keys, lines_of_modules)
{
	struct tls_modules_reading reading = {0};

	cr_expect_str_eq(tls_modules_line(&reading, TLS_ENGINE_CONTROL, "PIN:1"), "No engine was defined");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_ENGINE_DEFAULT, "ALL"), "No engine was defined");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER_PARAMETER, "x"), "Malformed parameter");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER_PARAMETER, ":a=b"), "Malformed parameter");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER_PARAMETER, "x:=b"), "Malformed parameter");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER_PARAMETER, "x:a"), "Malformed parameter");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER_PARAMETER, "nosuch:a=b"), "Provider not found");
	cr_expect_str_eq(tls_modules_line(&reading, TLS_PROVIDER, "nosuchprovider"), "Failed to load provider");
	cr_expect_eq(tls_modules_engine("nosuch"), 0);
	cr_expect_eq(tls_modules_engines(), 0);
}

Test(keys, modules_are_loaded_once)
{
	struct tls_modules_reading first = {0}, same = {0}, other = {0}, fewer = {0};

	cr_assert_null(tls_modules_line(&first, TLS_PROVIDER, "default"));
	cr_assert_null(tls_modules_end(&first, false));
	cr_assert_null(tls_modules_line(&same, TLS_PROVIDER, "default"));
	cr_expect_not(same.differs);
	cr_assert_null(tls_modules_end(&same, false));
	/* Neither loaded nor refused: it waits for the next start. */
	cr_assert_null(tls_modules_line(&other, TLS_PROVIDER, "nosuchprovider"));
	cr_expect(other.differs);
	cr_assert_null(tls_modules_end(&other, false));
	cr_assert_null(tls_modules_end(&fewer, true));
	cr_expect_not(tls_modules_fips());
	/* What makes no sense is refused at any time. */
	cr_expect_str_eq(tls_modules_line(&fewer, TLS_ENGINE_CONTROL, "INIT"), "No engine was defined");
}

Test(keys, which_errors_another_answer_cures)
{
	ERR_clear_error();
	cr_expect_not(tls_prompt_was_wrong());
	ERR_raise(ERR_LIB_EVP, EVP_R_BAD_DECRYPT);
	cr_expect(tls_prompt_was_wrong());
	cr_expect_eq(ERR_peek_error(), 0);
	ERR_raise(ERR_LIB_SSL, 1);
	cr_expect_not(tls_prompt_was_wrong());
	/* CKR_PIN_INCORRECT of a module, whichever library number it has */
	ERR_raise(ERR_get_next_error_library(), 0xa0);
	cr_expect(tls_prompt_was_wrong());
}

Test(keys, what_is_remembered_is_said_without_asking)
{
	tls_prompt_begin(false, "the key", "secret");
	cr_expect_not(tls_prompt_asked());
	cr_expect_str_eq(tls_prompt_answer(), "");
	tls_prompt_end();
	cr_expect_null(tls_prompt_remembered(0));
	cr_assert_not_null(tls_prompt_method());
	cr_expect_eq(tls_prompt_method(), tls_prompt_method());
}
