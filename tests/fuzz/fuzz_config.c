/*
 * Fuzz target: any bytes as a configuration file. What is accepted must survive -T and a second reading unchanged.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct config *load(const void *bytes, size_t size)
{
	int memory = memfd_create("fuzz", MFD_CLOEXEC);
	struct config_source source = {.fd = memory};
	struct config *config = NULL;

	if (memory < 0)
		abort();
	if (write(memory, bytes, size) == (ssize_t)size && lseek(memory, 0, SEEK_SET) == 0)
		config = config_load(&source);
	close(memory);
	return config;
}

static char *print(const struct config *config, size_t *size)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, size);

	config_print_effective(config, out);
	fclose(out);
	return text;
}

/* Neither the machine's directories nor this process's environment are to be played with, and no code is to be loaded. */
static int reaches_outside(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	int found = !text || strcasestr(text, "include") || strcasestr(text, "setenv") || strcasestr(text, "engine") ||
	            strcasestr(text, "provider") || strcasestr(text, "psksecrets") || memchr(data, '\0', size);

	free(text);
	return found && size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config, *again;
	char *once, *twice;
	size_t once_size, twice_size;

	if (reaches_outside(data, size))
		return 0;
	config = load(data, size);
	if (!config)
		return 0;
	once = print(config, &once_size);
	again = load(once, once_size);
	if (!again)
		abort();
	twice = print(again, &twice_size);
	if (once_size != twice_size || memcmp(once, twice, once_size))
		abort();
	config_free(config);
	config_free(again);
	free(once);
	free(twice);
	return 0;
}
