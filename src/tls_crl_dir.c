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
#include <openssl/x509_vfy.h>
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
	bool again; /* it could not be read, which may be better next time */
	STACK_OF(X509_CRL) * lists;
};

/* The store's: it belongs to one worker. */
struct crl_dir {
	const char *path;
	OSSL_LIB_CTX *library;
	struct crl_file *files;
	size_t count;
};

static int store_index = -1; /* X509_STORE ex_data: its struct crl_dir */

/* --- files -------------------------------------------------------------------------------------------------------------------------- */

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

/* Adds the next list of a PEM file. False: the end, or an error. */
static bool read_list(BIO *bio, OSSL_LIB_CTX *library, STACK_OF(X509_CRL) * lists)
{
	X509_CRL *crl = X509_CRL_new_ex(library, NULL);

	if (crl && PEM_read_bio_X509_CRL(bio, &crl, NULL, NULL) && sk_X509_CRL_push(lists, crl) > 0)
		return true;
	X509_CRL_free(crl); /* NULL where d2i has freed it */
	return false;
}

/* All lists of a file. NULL: there is none, or not all can be read, with the reason in the error queue. */
static STACK_OF(X509_CRL) * read_lists(const char *path, OSSL_LIB_CTX *library)
{
	STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
	BIO *bio = BIO_new_file(path, "r");

	while (lists && bio && read_list(bio, library, lists))
		;
	BIO_free(bio);
	if (bio && sk_X509_CRL_num(lists) > 0 && ERR_GET_REASON(ERR_peek_error()) == PEM_R_NO_START_LINE)
		return lists;
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	return NULL;
}

/* A file that is being written may not be complete: the lists of its older state stay, and it is read again when it changes once more. */
static void file_load(struct crl_file *file, const char *path, OSSL_LIB_CTX *library)
{
	STACK_OF(X509_CRL) * lists;
	unsigned long error;

	ERR_clear_error();
	lists = read_lists(path, library);
	error = ERR_peek_error();
	if (!lists && !file->again)
		log_global(LOG_WARNING, "No revocation list in %s", path);
	file->again = !lists && (ERR_SYSTEM_ERROR(error) || ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE);
	ERR_clear_error();
	if (!lists)
		return;
	sk_X509_CRL_pop_free(file->lists, X509_CRL_free);
	file->lists = lists;
}

/* --- lookups ------------------------------------------------------------------------------------------------------------------------ */

/* Returns false if a file cannot be read, or is not remembered for want of memory. */
static bool dir_refresh(struct crl_dir *dir, unsigned long hash)
{
	char path[PATH_MAX];
	struct stat st;

	for (unsigned number = 0;; number++) {
		struct crl_file *file;

		if (snprintf(path, sizeof(path), "%s/%08lx.r%u", dir->path, hash, number) >= PATH_MAX || stat(path, &st) < 0 ||
		    !S_ISREG(st.st_mode))
			return true;
		file = file_at(dir, hash, number);
		if (!file)
			return false;
		if (file_changed(file, &st) || file->again)
			file_load(file, path, dir->library);
		if (file->again)
			return false;
	}
}

static bool add_reference(STACK_OF(X509_CRL) * lists, X509_CRL *crl)
{
	bool ok = X509_CRL_up_ref(crl);

	if (ok && sk_X509_CRL_push(lists, crl) <= 0) {
		X509_CRL_free(crl);
		ok = false;
	}
	return ok;
}

/* The issuer's lists. NULL: some may be missing, so that none is worth anything. */
static STACK_OF(X509_CRL) * dir_find(struct crl_dir *dir, const X509_NAME *issuer)
{
	unsigned long hash = X509_NAME_hash_ex(issuer, dir->library, NULL, NULL);
	STACK_OF(X509_CRL) *found = sk_X509_CRL_new_null();
	bool ok = found && dir_refresh(dir, hash);

	for (size_t i = 0; ok && i < dir->count; i++)
		for (int k = 0; ok && dir->files[i].hash == hash && k < sk_X509_CRL_num(dir->files[i].lists); k++) {
			X509_CRL *crl = sk_X509_CRL_value(dir->files[i].lists, k);

			if (X509_NAME_cmp(X509_CRL_get_issuer(crl), issuer) == 0)
				ok = add_reference(found, crl);
		}
	if (ok)
		return found;
	sk_X509_CRL_pop_free(found, X509_CRL_free);
	return NULL;
}

static struct crl_dir *dir_of(const X509_STORE *store)
{
	return X509_STORE_get_ex_data(store, store_index);
}

/* X509_STORE_set_lookup_crls(3): what is in the directory, and what the store has besides (CRLfile). */
static STACK_OF(X509_CRL) * lookup_crls(const X509_STORE_CTX *ctx, const X509_NAME *issuer)
{
	STACK_OF(X509_CRL) *found = dir_find(dir_of(X509_STORE_CTX_get0_store(ctx)), issuer);
	STACK_OF(X509_CRL) *others = found ? X509_STORE_CTX_get1_crls(ctx, issuer) : NULL;
	X509_CRL *crl;

	while (others && (crl = sk_X509_CRL_shift(others)))
		if (sk_X509_CRL_push(found, crl) <= 0)
			X509_CRL_free(crl);
	sk_X509_CRL_free(others);
	return found;
}

static bool is_current(const X509_CRL *crl)
{
	return !X509_CRL_get0_nextUpdate(crl) || X509_cmp_current_time(X509_CRL_get0_nextUpdate(crl)) > 0;
}

bool crl_dir_clears(const X509_STORE *store, X509 *cert)
{
	STACK_OF(X509_CRL) *lists = dir_find(dir_of(store), X509_get_issuer_name(cert));
	int count = lists ? sk_X509_CRL_num(lists) : -1;
	bool current = count == 0, named = false;

	for (int i = 0; i < count; i++) {
		X509_CRL *crl = sk_X509_CRL_value(lists, i);
		X509_REVOKED *entry;

		current |= is_current(crl);
		named |= X509_CRL_get0_by_cert(crl, &entry, cert) == 1;
	}
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	return current && !named;
}

/* --- the store's -------------------------------------------------------------------------------------------------------------------- */

/* CRYPTO_EX_free(3): with the store. */
static void dir_free(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long argl, void *argp)
{
	struct crl_dir *dir = data;

	(void)parent, (void)all, (void)index, (void)argl, (void)argp;
	for (size_t i = 0; dir && i < dir->count; i++)
		sk_X509_CRL_pop_free(dir->files[i].lists, X509_CRL_free);
	if (dir)
		free(dir->files);
	free(dir);
}

bool crl_dir_add(X509_STORE *store, const char *path, OSSL_LIB_CTX *library)
{
	struct crl_dir *dir = calloc(1, sizeof(*dir));

	if (store_index < 0)
		store_index = X509_STORE_get_ex_new_index(0, NULL, NULL, NULL, dir_free);
	if (!dir || store_index < 0 || !X509_STORE_set_ex_data(store, store_index, dir)) {
		free(dir);
		return false;
	}
	dir->path = path;
	dir->library = library;
	X509_STORE_set_lookup_crls(store, lookup_crls);
	return true;
}
