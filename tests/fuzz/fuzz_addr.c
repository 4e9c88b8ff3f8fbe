/*
 * Fuzz target: any bytes as an address. What addr_check() takes and needs no look-up must resolve, and print as what resolves
 * to the same. libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "addr.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_as(const char *spec, enum addr_use use)
{
	struct addr_list list = {0}, again = {0};
	char text[ADDR_TEXT_MAX];

	if (addr_check(spec, use) || !addr_is_numeric(spec))
		return;
	if (addr_resolve(spec, use, &list)) /* a scope id that no interface has */
		return;
	if (!list.count)
		abort();
	for (size_t i = 0; i < list.count; i++) {
		addr_text(&list.addrs[i], text);
		if (addr_check(text, ADDR_ACTIVE) || addr_resolve(text, ADDR_ACTIVE, &again))
			abort();
		if (!addr_equal(&list.addrs[i], &again.addrs[i]))
			abort();
	}
	addr_list_free(&list);
	addr_list_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *spec = strndup((const char *)data, size);

	if (!spec)
		abort();
	try_as(spec, ADDR_PASSIVE);
	try_as(spec, ADDR_ACTIVE);
	try_as(spec, ADDR_HOST);
	free(spec);
	return 0;
}
