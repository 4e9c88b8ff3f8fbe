/*
 * Names from a configuration file are any bytes at all; pages and scrapes must be UTF-8 and keep their own syntax.
 * For stats_*.c alone, see stats_view.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stats_view.h"

#include <stddef.h>

/* The lead byte's share of a code point, and the smallest one its length is for (RFC 3629: nothing overlong). */
static size_t lead(unsigned char c, uint32_t *code, uint32_t *least)
{
	static const struct {
		unsigned char mask, bits;
		uint32_t least;
	} forms[] = {{0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};

	for (size_t i = 0; i < 3; i++)
		if ((c & forms[i].mask) == forms[i].bits) {
			*code = c & (unsigned char)~forms[i].mask;
			*least = forms[i].least;
			return i + 2;
		}
	return 0;
}

/* Bytes of the printable UTF-8 character at `text`, 0 if there is none. Stops at the NUL. */
static size_t character(const char *text)
{
	const unsigned char *at = (const unsigned char *)text;
	uint32_t code, least;
	size_t length;

	if (*at < 0x80)
		return *at >= 0x20 && *at != 0x7f;
	length = lead(*at, &code, &least);
	for (size_t i = 1; i < length; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (at[i] & 0x3f);
	}
	if (!length || code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) || code < 0xa0)
		return 0;
	return length;
}

static void put(FILE *out, char c, const char *(*escape)(char c))
{
	const char *instead = escape(c);

	if (instead)
		fputs(instead, out);
	else
		fputc(c, out);
}

void stats_text(FILE *out, const char *text, const char *(*escape)(char c))
{
	while (*text) {
		size_t length = character(text);

		if (length == 1) {
			put(out, *text, escape);
		} else if (length) {
			fwrite(text, 1, length, out);
		} else {
			put(out, '\\', escape);
			fprintf(out, "x%02X", (unsigned char)*text);
		}
		text += length ? length : 1;
	}
}
