/*
 * Landlock: see landlock.h. The headers of Linux 6.1 know it up to version 2: later rights are given by their numbers.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	VERSION_REFER = 2,     /* Linux 5.19 */
	VERSION_TRUNCATE = 3,  /* Linux 6.2 */
	VERSION_IOCTL_DEV = 5, /* Linux 6.10 */
	VERSION_SCOPE = 6,     /* Linux 6.12 */
};

static const uint64_t truncate_files = 1ULL << 14,
		      ioctl_devices = 1ULL << 15; /* LANDLOCK_ACCESS_FS_TRUNCATE, LANDLOCK_ACCESS_FS_IOCTL_DEV */
static const uint64_t scope_signals = 1ULL << 1;  /* LANDLOCK_SCOPE_SIGNAL */

/* struct landlock_ruleset_attr of Linux 6.12; older kernels take what comes first in it. */
struct ruleset {
	uint64_t files, ports, scoped;
};

/* struct landlock_net_port_attr, and LANDLOCK_RULE_NET_PORT. */
struct port_rule {
	uint64_t access, port;
};
enum { RULE_PORT = 2 };

static int syscall_or_errno(long result)
{
	return result < 0 ? -errno : (int)result;
}

int landlock_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return version < 0 ? -errno : (int)version;
}

/* Everything that a version knows of. */
static uint64_t all_rights(int version)
{
	uint64_t rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;

	if (version >= VERSION_REFER)
		rights |= LANDLOCK_ACCESS_FS_REFER;
	if (version >= VERSION_TRUNCATE)
		rights |= truncate_files;
	if (version >= VERSION_IOCTL_DEV)
		rights |= ioctl_devices;
	return rights;
}

static uint64_t rights_of(unsigned rights, int version)
{
	static const uint64_t of[] = {
		LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
		LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | truncate_files,
		LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE,
		LANDLOCK_ACCESS_FS_REMOVE_FILE,
		ioctl_devices,
		LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE,
	};
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(of) / sizeof(*of); i++)
		if (rights & 1U << i)
			sum |= of[i];
	return sum & all_rights(version);
}

/* The kernel's numbers for them are ours. */
int landlock_open(int version, unsigned ports)
{
	struct ruleset ruleset = {.files = all_rights(version)};
	size_t size = sizeof(ruleset.files);

	if (version >= LANDLOCK_VERSION_PORTS) {
		ruleset.ports = ports;
		size = offsetof(struct ruleset, scoped);
	}
	if (version >= VERSION_SCOPE) {
		ruleset.scoped = scope_signals;
		size = sizeof(ruleset);
	}
	return syscall_or_errno(syscall(SYS_landlock_create_ruleset, &ruleset, size, 0));
}

/* What makes sense for something that is no directory. */
static uint64_t of_file(uint64_t rights)
{
	return rights & (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | truncate_files | ioctl_devices);
}

int landlock_allow(int ruleset, int version, const char *path, unsigned rights)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = rights_of(rights, version)};
	struct stat st;
	int error = 0;

	rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0)
		return -errno;
	if (fstat(rule.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
		rule.allowed_access = of_file(rule.allowed_access);
	if (rule.allowed_access && syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		error = -errno;
	close(rule.parent_fd);
	return error;
}

int landlock_allow_port(int ruleset, unsigned port, enum landlock_ports use)
{
	struct port_rule rule = {.access = use, .port = port};

	return syscall_or_errno(syscall(SYS_landlock_add_rule, ruleset, RULE_PORT, &rule, 0));
}

int landlock_enforce(int ruleset)
{
	int error = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;

	close(ruleset);
	return error;
}
