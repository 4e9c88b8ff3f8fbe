/*
 * Seed files: see tls_random.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_random.h"

#include "log.h"
#include "tls_context.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SEED_MAX = 65536, /* bytes of a file, whatever RNDbytes asks for: /dev/zero has no end */
	SEED_NEW = 1024,
};

static unsigned char seed[SEED_MAX];

/* Returns the number of bytes, or -errno. `regular`: it may be written to. O_NONBLOCK: nobody may be at the other end of a FIFO. */
static ssize_t seed_read(const char *path, size_t n, bool *regular)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	ssize_t got = 0, done = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	*regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
	while ((size_t)done < n && (got = read(fd, seed + done, n - (size_t)done)) > 0)
		done += got;
	if (got < 0)
		done = -errno;
	close(fd);
	return done;
}

/* As additional input: it can only make the generators better. */
static void seed_stir(struct tls_library *const *libraries, unsigned count, size_t n)
{
	RAND_add(seed, (int)n, 0);
	for (unsigned w = 0; w < count; w++) {
		EVP_RAND_CTX *primary = RAND_get0_primary(tls_library_context(libraries[w]));

		if (!primary || !EVP_RAND_reseed(primary, 0, NULL, 0, seed, n))
			log_global(LOG_WARNING, "RNDfile: a worker's random number generator takes no seed");
	}
}

/* The next start shall not find the same. */
static void seed_renew(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_TRUNC | O_NOFOLLOW);
	bool written = fd >= 0 && RAND_bytes(seed, SEED_NEW) == 1 && write(fd, seed, SEED_NEW) == SEED_NEW;

	if (written)
		log_global(LOG_DEBUG, "Wrote %d new random bytes to %s", SEED_NEW, path);
	else
		log_global(LOG_WARNING, "RNDfile: %s is not renewed: %s (%d)", path, strerror(errno), errno);
	if (fd >= 0)
		close(fd);
}

void tls_random_seed(const struct globals *globals, struct tls_library *const *libraries, unsigned count)
{
	size_t wanted = globals->rnd_bytes < SEED_MAX ? (size_t)globals->rnd_bytes : SEED_MAX;
	bool regular = false;
	ssize_t n;

	if (!globals->rnd_file) {
		log_global(LOG_DEBUG, "No PRNG seeding was required");
		return;
	}
	n = seed_read(globals->rnd_file, wanted, &regular);
	if (n < 0) {
		log_global(LOG_WARNING, "RNDfile: %s: %s (%d)", globals->rnd_file, strerror((int)-n), (int)-n);
	} else {
		seed_stir(libraries, count, (size_t)n);
		log_global(LOG_DEBUG, "Seeded from %zd byte(s) of %s besides the kernel's", n, globals->rnd_file);
	}
	if (n >= 0 && regular && globals->rnd_overwrite)
		seed_renew(globals->rnd_file);
	OPENSSL_cleanse(seed, sizeof(seed));
}
