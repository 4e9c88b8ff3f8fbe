/*
 * Users and groups: see owner.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "owner.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

/* What the machine has told us. */
struct known {
	struct known *next;
	bool group;
	unsigned id;
	char name[];
};

static struct known *known;

static const struct known *find(const char *name, bool group)
{
	const struct known *k = known;

	while (k && (k->group != group || strcmp(k->name, name) != 0))
		k = k->next;
	return k;
}

/* Without memory it is asked for again next time. */
static void remember(const char *name, bool group, unsigned id)
{
	struct known *k = calloc(1, sizeof(*k) + strlen(name) + 1);

	if (!k)
		return;
	strcpy(k->name, name);
	k->group = group;
	k->id = id;
	k->next = known;
	known = k;
}

static bool number(const char *text, unsigned *id)
{
	unsigned long value;
	char *end;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	*id = (unsigned)value;
	return !*end && !errno && value < UINT_MAX; /* (uid_t)-1 means nobody at all */
}

bool owner_user(const char *text, uid_t *uid)
{
	const struct known *k = find(text, false);
	const struct passwd *entry;
	unsigned id = 0;

	if (k) {
		id = k->id;
	} else if (!number(text, &id)) {
		entry = getpwnam(text);
		if (!entry)
			return false;
		id = entry->pw_uid;
		remember(text, false, id);
	}
	if (uid)
		*uid = id;
	return true;
}

bool owner_group(const char *text, gid_t *gid)
{
	const struct known *k = find(text, true);
	const struct group *entry;
	unsigned id = 0;

	if (k) {
		id = k->id;
	} else if (!number(text, &id)) {
		entry = getgrnam(text);
		if (!entry)
			return false;
		id = entry->gr_gid;
		remember(text, true, id);
	}
	if (gid)
		*gid = id;
	return true;
}

int owner_groups(const char *user, gid_t *groups, int room)
{
	const struct passwd *entry;
	unsigned id;
	int count = room;

	entry = number(user, &id) ? getpwuid(id) : getpwnam(user);
	if (!entry)
		return 0;
	getgrouplist(entry->pw_name, entry->pw_gid, groups, &count);
	return count < room ? count : room;
}
