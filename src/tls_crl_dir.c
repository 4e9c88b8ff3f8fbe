/*
 * A directory of revocation lists: see tls_crl_dir.h. A worker reads it itself: the files are small and in the page cache, and a handshake waits for them.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_crl_dir.h"

#include "log.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* A file that has been read, as it was then. */
struct crl_file {
	unsigned long hash;
	unsigned number;
	ino_t inode;
	off_t size;
	struct timespec changed;
};

struct crl_dir {
	const char *path;
	OSSL_LIB_CTX *library;
	struct crl_file *files;
	size_t count;
};

X509_CRL *crl_copy(X509_CRL *crl, OSSL_LIB_CTX *library)
{
	unsigned char *der = NULL;
	int n = i2d_X509_CRL(crl, &der);
	const unsigned char *p = der;
	X509_CRL *copy = n > 0 ? X509_CRL_new_ex(library, NULL) : NULL;

	if (copy && !d2i_X509_CRL(&copy, &p, n))
		copy = NULL; /* d2i freed it */
	OPENSSL_free(der);
	return copy;
}

int lookup_answer(X509_STORE *store, X509_LOOKUP_TYPE type, const X509_NAME *name, X509_OBJECT *found)
{
	X509_OBJECT *object;

	if (!X509_STORE_lock(store))
		return 0;
	object = X509_OBJECT_retrieve_by_subject(X509_STORE_get0_objects(store), type, name);
	X509_STORE_unlock(store);
	if (!object)
		return 0;
	/* The answer holds no reference: whoever asked takes one of its own. */
	if (type == X509_LU_X509) {
		if (!X509_OBJECT_set1_X509(found, X509_OBJECT_get0_X509(object)))
			return 0;
		X509_free(X509_OBJECT_get0_X509(object));
	} else {
		if (!X509_OBJECT_set1_X509_CRL(found, X509_OBJECT_get0_X509_CRL(object)))
			return 0;
		X509_CRL_free(X509_OBJECT_get0_X509_CRL(object));
	}
	return 1;
}

/* Where a file is remembered, or NULL without memory. */
static struct crl_file *file_at(struct crl_dir *dir, unsigned long hash, unsigned number)
{
	struct crl_file *grown;

	for (size_t i = 0; i < dir->count; i++)
		if (dir->files[i].hash == hash && dir->files[i].number == number)
			return &dir->files[i];
	grown = realloc(dir->files, (dir->count + 1) * sizeof(*grown));
	if (!grown)
		return NULL;
	dir->files = grown;
	dir->files[dir->count] = (struct crl_file){.hash = hash, .number = number};
	return &dir->files[dir->count++];
}

/* True for a file that is not what it was; remembers what it is now. */
static bool file_changed(struct crl_file *file, const struct stat *st)
{
	bool same = file->inode == st->st_ino && file->size == st->st_size && file->changed.tv_sec == st->st_ctim.tv_sec &&
	            file->changed.tv_nsec == st->st_ctim.tv_nsec;

	file->inode = st->st_ino;
	file->size = st->st_size;
	file->changed = st->st_ctim;
	return !same;
}

/* Returns false without memory for all that is in it. */
static bool add_lists(STACK_OF(X509_INFO) * infos, const struct crl_dir *dir, X509_STORE *store, int *count)
{
	bool ok = true;

	for (int i = 0; ok && i < sk_X509_INFO_num(infos); i++) {
		X509_CRL *crl = sk_X509_INFO_value(infos, i)->crl;
		X509_CRL *copy = crl ? crl_copy(crl, dir->library) : NULL;

		if (!crl)
			continue;
		ok = copy && X509_STORE_add_crl(store, copy);
		X509_CRL_free(copy);
		*count += ok;
	}
	return ok;
}

/*
 * A file that is being written may not be complete: the lists of its older state stay in the store, and it is read again when it changes once more.
 * Returns false if it was not the file's fault.
 */
static bool file_load(const struct crl_dir *dir, const char *path, X509_STORE *store)
{
	BIO *bio = BIO_new_file(path, "r");
	STACK_OF(X509_INFO) *infos = bio ? PEM_X509_INFO_read_bio(bio, NULL, NULL, NULL) : NULL;
	bool ok = infos || ERR_GET_REASON(ERR_peek_error()) != ERR_R_MALLOC_FAILURE;
	int count = 0;

	ok = ok && add_lists(infos, dir, store, &count);
	sk_X509_INFO_pop_free(infos, X509_INFO_free);
	BIO_free(bio);
	ERR_clear_error();
	if (count == 0)
		log_global(LOG_WARNING, "No revocation list in %s", path);
	return ok;
}

static int dir_find(X509_LOOKUP *lookup, X509_LOOKUP_TYPE type, const X509_NAME *name, X509_OBJECT *found)
{
	struct crl_dir *dir = X509_LOOKUP_get_method_data(lookup);
	X509_STORE *store = X509_LOOKUP_get_store(lookup);
	char path[PATH_MAX];
	unsigned long hash;
	struct stat st;

	if (type != X509_LU_CRL)
		return 0;
	hash = X509_NAME_hash_ex(name, dir->library, NULL, NULL);
	for (unsigned number = 0;; number++) {
		struct crl_file *file;

		if (snprintf(path, sizeof(path), "%s/%08lx.r%u", dir->path, hash, number) >= PATH_MAX || stat(path, &st) < 0)
			break;
		file = file_at(dir, hash, number);
		if (!file)
			break;
		if (file_changed(file, &st) && !file_load(dir, path, store))
			file->size = -1; /* once more next time */
	}
	return lookup_answer(store, type, name, found);
}

static void dir_free(X509_LOOKUP *lookup)
{
	struct crl_dir *dir = X509_LOOKUP_get_method_data(lookup);

	if (dir)
		free(dir->files);
	free(dir);
}

static X509_LOOKUP_METHOD *dir_method(void)
{
	static X509_LOOKUP_METHOD *method; /* made by the main thread, before there is a worker that uses it */

	if (method)
		return method;
	method = X509_LOOKUP_meth_new("directory of revocation lists");
	if (method && (!X509_LOOKUP_meth_set_get_by_subject(method, dir_find) || !X509_LOOKUP_meth_set_free(method, dir_free))) {
		X509_LOOKUP_meth_free(method);
		method = NULL;
	}
	return method;
}

bool crl_dir_add(X509_STORE *store, const char *path, OSSL_LIB_CTX *library)
{
	X509_LOOKUP_METHOD *method = dir_method();
	X509_LOOKUP *lookup = method ? X509_STORE_add_lookup(store, method) : NULL;
	struct crl_dir *dir = lookup ? calloc(1, sizeof(*dir)) : NULL;

	if (!dir)
		return false;
	dir->path = path;
	dir->library = library;
	X509_LOOKUP_set_method_data(lookup, dir); /* an assignment: it cannot fail */
	return true;
}
