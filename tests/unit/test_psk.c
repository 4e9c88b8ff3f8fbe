/*
 * Unit tests of psk.h: the file of pre-shared keys. Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "psk.h"

#include "arena.h"
#include "config_testing.h"

#include <sys/stat.h>

static struct arena *arena;

static void up(void)
{
	arena = arena_new();
}

static void down(void)
{
	arena_fail_after = -1;
	arena_free(arena);
}

TestSuite(psk, .init = up, .fini = down);

static struct psks *parse_bytes(const char *text, size_t n)
{
	struct psks *psks = psks_parse(arena, text, n);

	hear_stderr(log_dump_kept);
	return psks;
}

static struct psks *parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

static const struct psk *only(const char *text)
{
	struct psks *psks = parse(text);

	cr_assert(psks && psks->count == 1, "%s: %s", text, said);
	return psks->first;
}

#define HEX "00112233445566778899aabbCCDDEEFF"
static const unsigned char hex_bytes[16] = {0,    0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                            0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

Test(psk, hexadecimal_keys)
{
	static const char *const forms[] = {"a:" HEX,
	                                    "a:" HEX "\n",
	                                    "a:" HEX "\r\n",
	                                    "a::" HEX,
	                                    "a:" HEX ":",
	                                    "a:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
	                                    "a:0011::22334455667788:99aabbCCDDEEFF",
	                                    "\n\r\n\na:" HEX "\n\n"};

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		const struct psk *psk = only(forms[i]);

		cr_expect_str_eq(psk->identity, "a");
		cr_expect(psk->key_len == 16 && !memcmp(psk->key, hex_bytes, 16), "%s", forms[i]);
	}
}

Test(psk, keys_that_are_the_bytes_themselves)
{
	static const char *const keys[] = {"0123456789abcdefg",
	                                   "0011223344556677889",
	                                   "0:112233445566778899aabbccddeeff0",
	                                   "0 112233445566778899aabbccddeef",
	                                   " 123456789 123456 ",
	                                   "\xff\xfe\xfd 0123456789012"};

	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
		char line[64];
		const struct psk *psk;

		snprintf(line, sizeof(line), "a:%s\n", keys[i]);
		psk = only(line);
		cr_expect(psk->key_len == strlen(keys[i]) && !memcmp(psk->key, keys[i], psk->key_len), "%s", keys[i]);
	}
	cr_expect_eq(only("a:0123456789\rabcdefgh\r\n")->key_len, 18, "carriage returns do not count");
}

Test(psk, identities)
{
	char line[400];

	cr_expect_str_eq(only(":" HEX)->identity, "");
	cr_expect_str_eq(only(" a b :" HEX)->identity, " a b ");
	cr_expect_str_eq(only("#a:" HEX)->identity, "#a");
	cr_expect_str_eq(only("\xc3\xa4:" HEX)->identity, "\xc3\xa4");
	snprintf(line, sizeof(line), "%0255d:" HEX, 1);
	cr_expect_eq(strlen(only(line)->identity), 255);
}

Test(psk, what_is_refused)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
		{"", ""},
		{"\n\r\n\n", ""},
		{"a", "PSKsecrets line 1: Not in identity:key format"},
		{"a:" HEX "\n\nb\n", "PSKsecrets line 3: Not in identity:key format"},
		{"a:", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:\r\n", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{":", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:::::", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:0011223344556677", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:0123456789abcdef", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:fifteen letters", "PSKsecrets line 1: Key shorter than 16 bytes"},
		{"a:" HEX "\nb:0123456789abcdefg\na:" HEX "\n", "PSKsecrets line 3: Identity \"a\" has a key in line 1"},
		{":" HEX "\n:" HEX, "PSKsecrets line 2: Identity \"\" has a key in line 1"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		cr_expect_null(parse(cases[i].text), "%s", cases[i].text);
		cr_expect(strstr(said, cases[i].words), "%s: %s", cases[i].text, said);
	}
	cr_expect_null(parse_bytes("a:0123456789\0abcdefgh", 21));
	cr_expect_null(parse_bytes("a\0b:" HEX, 36));
}

Test(psk, lengths)
{
	char *line = malloc(20000);

	memset(line, 'x', 20000);
	line[256] = ':';
	cr_expect_null(parse_bytes(line, 400));
	cr_expect(strstr(said, "PSKsecrets line 1: Identity longer than 256 characters"));
	line[1] = ':';
	cr_expect_not_null(parse_bytes(line, 2 + 512));
	cr_expect_null(parse_bytes(line, 2 + 513));
	cr_expect(strstr(said, "PSKsecrets line 1: Key longer than 512 bytes"));
	cr_expect_null(parse_bytes(line, 20000));
	memset(line + 2, 'a', 1026);
	cr_expect_not_null(parse_bytes(line, 2 + 1024), "512 bytes in hexadecimal");
	cr_expect_null(parse_bytes(line, 2 + 1026));
	free(line);
}

Test(psk, find)
{
	char text[64 * 100] = "";
	struct psks *psks;

	for (int i = 0; i < 100; i++) /* in no order */
		sprintf(text + strlen(text), "id%d:key number %08d\n", i * 37 % 100, i * 37 % 100);
	psks = parse(text);
	cr_assert(psks && psks->count == 100);
	cr_expect_str_eq(psks->first->identity, "id0");
	cr_expect_str_eq(psks->first[1].identity, "id37");
	for (int i = 0; i < 100; i++) {
		char identity[16], key[32];
		const struct psk *psk;

		snprintf(identity, sizeof(identity), "id%d", i);
		snprintf(key, sizeof(key), "key number %08d", i);
		psk = psks_find(psks, identity);
		cr_assert_not_null(psk);
		cr_expect(psk->key_len == strlen(key) && !memcmp(psk->key, key, psk->key_len));
	}
	cr_expect_null(psks_find(psks, ""));
	cr_expect_null(psks_find(psks, "id"));
	cr_expect_null(psks_find(psks, "id1000"));
	cr_expect_null(psks_find(psks, "zz"));
}

Test(psk, no_memory)
{
	int tried;

	for (tried = 0; tried < 100; tried++) {
		struct psks *psks;

		arena_fail_after = tried;
		psks = parse("a:" HEX "\nb:" HEX "\n");
		arena_fail_after = -1;
		if (psks)
			break;
	}
	cr_expect(tried > 4 && tried < 100, "%d", tried);
}

/* --- files --- */

/* Tests run beside each other. */
static const char *path_of_test(void)
{
	static char path[64];

	snprintf(path, sizeof(path), "/tmp/tlsplice-unit-psk-%d", getpid());
	return path;
}

static struct psks *load_keys(const char *text, mode_t mode)
{
	const char *path = path_of_test();
	FILE *file = fopen(path, "w");
	struct psks *psks;

	fputs(text, file);
	fclose(file);
	chmod(path, mode);
	psks = psks_load(arena, path);
	unlink(path);
	hear_stderr(log_dump_kept);
	return psks;
}

Test(psk, files)
{
	cr_expect_not_null(load_keys("a:" HEX "\n", 0640));
	cr_expect_null(strstr(said, "Insecure"));
	cr_expect_not_null(load_keys("a:" HEX "\n", 0644));
	cr_expect(strstr(said, "[:] Insecure file permissions on /tmp/tlsplice-unit-psk"));
	cr_expect_null(psks_load(arena, path_of_test()));
	hear_stderr(log_dump_kept);
	cr_expect(strstr(said, ": No such file or directory (2)\n"));
	cr_expect_null(psks_load(arena, "/tmp"));
	cr_expect_null(psks_load(arena, "/dev/zero"));
	cr_expect_null(psks_load(arena, "/dev/null"));
}

Test(psk, big_files)
{
	enum { LINES = 5000 };
	char *text = malloc(LINES * 40), *at = text;
	struct psks *psks;

	for (int i = 0; i < LINES; i++)
		at += sprintf(at, "id%d:0123456789 %d\n", i, 100000 + i);
	psks = load_keys(text, 0600);
	cr_assert(psks && psks->count == LINES);
	free(text);
}

/* --- in a configuration --- */

#define SECRETS "PSKsecrets = /proc/self/fd/78\n"

Test(psk, of_a_section)
{
	struct config *config;
	int memory = memfd_create("psk", 0);

	dprintf(memory, "a:" HEX "\nb:" HEX "\n");
	dup2(memory, 78);
	config = load_good("[s]\naccept = 1\nconnect = 2\n" SECRETS);
	cr_expect_eq(config->sections->psks->count, 2, "no certificate is needed");
	config_free(config);
	config = load_good(SECRETS CLIENT "PSKidentity = b\n");
	config_free(config);
	config = load_good("[s]\naccept = 1\nconnect = 2\n" SECRETS "PSKidentity = c\n");
	config_free(config);
	refused(CLIENT "PSKidentity = c\n" SECRETS, "[!] Service [s]: No key found for the specified PSK identity\n");
	refused(CLIENT "PSKrequire = no\n" SECRETS,
	        "Either \"verifyChain\" or \"verifyPeer\" has to be enabled for \"PSKrequire = no\" in client sections\n");
	refused(CLIENT "PSKsecrets = /dev/null\n", "descriptor 77:5: \"PSKsecrets = /dev/null\": Failed to read PSK secrets\n");
	refused(CLIENT "PSKrequire = yes\n", "[!] Service [s]: \"PSKsecrets\" has to be configured for \"PSKrequire = yes\"\n");
	refused(CLIENT "PSKrequire = maybe\n", "The argument needs to be either 'auto', 'yes' or 'no'");
	close(78);
	close(memory);
}
