/*
 * For the tests of the configuration: loads a text and keeps what was said about it.
 * Included by tests/unit/test_config*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CONFIG_TESTING_H
#define TLSPLICE_CONFIG_TESTING_H

#include "config.h"
#include "log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The descriptor that configurations come from here: messages name it. */
enum { FROM = 77 };

/* What was logged by the last load, as "[!] text" lines. */
static char said[65536];

static inline void hear_stderr(void (*speak)(void))
{
	int memory = memfd_create("said", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
	ssize_t len;

	dup2(memory, STDERR_FILENO);
	speak();
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	len = pread(memory, said, sizeof(said) - 1, 0);
	said[len > 0 ? len : 0] = '\0';
	close(saved);
	close(memory);
}

static inline struct config *load_bytes(const char *text, size_t len)
{
	int memory = memfd_create("config", MFD_CLOEXEC);
	struct config_source source = {.fd = FROM};
	struct config *config;

	cr_assert_eq(write(memory, text, len), (ssize_t)len);
	lseek(memory, 0, SEEK_SET);
	dup2(memory, FROM);
	close(memory);
	config = config_load(&source);
	close(FROM);
	hear_stderr(log_dump_kept);
	return config;
}

static inline struct config *load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static inline struct config *load_file(const char *path)
{
	struct config_source source = {.path = path};
	struct config *config = config_load(&source);

	hear_stderr(log_dump_kept);
	return config;
}

/* Loads what must be good. */
static inline struct config *load_good(const char *text)
{
	struct config *config = load(text);

	cr_assert(config, "refused:\n%s\nbecause:\n%s", text, said);
	return config;
}

/* Loads what must be refused with these words. */
#define refused(text, words)                                                                    \
	do {                                                                                    \
		struct config *its = load(text);                                                \
		cr_expect_null(its, "accepted: %s", text);                                      \
		cr_expect(strstr(said, words), "%s\nwanted: %s\nsaid:\n%s", text, words, said); \
		cr_expect(strstr(said, "[!] Configuration failed\n"));                          \
		config_free(its);                                                               \
	} while (0)

static inline char *text_of(void (*print)(const struct config *, FILE *), const struct config *config)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	print(config, out);
	fclose(out);
	return text;
}

/* A server section that needs nothing else. */
#define SERVER "[s]\naccept = 127.0.0.1:4711\nconnect = 80\ncert = c.pem\n"
#define CLIENT "[s]\nclient = yes\naccept = 127.0.0.1:4711\nconnect = 80\n"

#endif
