/*
 * Prints what the table of options says to those who write texts: options man | options unbuilt.
 * Built and called by `make man` and tests/e2e/test_docs.py.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *what;
	void (*print)(FILE *out);
} prints[] = {
	{"man", config_print_man},
	{"unbuilt", config_print_unbuilt},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(prints) / sizeof(*prints); i++) {
		if (strcmp(argv[1], prints[i].what) != 0)
			continue;
		prints[i].print(stdout);
		return fflush(stdout) || ferror(stdout);
	}
	fputs("usage: options man | unbuilt\n", stderr);
	return 2;
}
