/*
 * A main() for fuzz targets that are built without libFuzzer: feeds every file named on the command line, or in the
 * directories named there, to the target. Linked with each tests/fuzz/fuzz_*.c by the Makefile.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 20 };

static unsigned long replayed;

/* The input lies in a block of exactly its size, so that a sanitizer sees every byte read beyond it. */
static int replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	char *room = malloc(INPUT_MAX);
	uint8_t *data = NULL;
	int rc = -1;

	if (file && room) {
		size_t size = fread(room, 1, INPUT_MAX, file);

		data = malloc(size ? size : 1);
		if (data) {
			memcpy(data, room, size);
			LLVMFuzzerTestOneInput(data, size);
			replayed++;
			rc = 0;
		}
	}
	if (rc)
		perror(path);
	free(data);
	free(room);
	if (file)
		fclose(file);
	return rc;
}

static int not_hidden(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int replay_directory(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, not_hidden, alphasort);
	int rc = count < 0 ? -1 : 0;

	for (int i = 0; i < count; i++) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
		if (replay_file(file))
			rc = -1;
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	else
		perror(path);
	return rc;
}

int main(int argc, char **argv)
{
	int rc = EXIT_SUCCESS;

	for (int i = 1; i < argc; i++) {
		struct stat st;
		int failed = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? replay_directory(argv[i]) : replay_file(argv[i]);

		if (failed)
			rc = EXIT_FAILURE;
	}
	printf("%lu inputs replayed\n", replayed);
	return rc;
}
