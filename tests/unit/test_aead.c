/*
 * Unit tests of aead.h: published vectors and random messages on every backend, input in pieces of every size.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aead.h"

#include <criterion/criterion.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const struct aead_backend *const backends[] = {
	&aead_evp, &aead_ccm,
#ifdef HAVE_IPSEC_MB
	&aead_ipsec_mb,
#endif
};
enum { BACKENDS = sizeof(backends) / sizeof(*backends), LONGEST = 16384 + 257 };

static const enum aead_cipher ciphers[] = {AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, AEAD_AES_128_CCM};

#define GCM_PLAIN                                                                                                                \
	"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b" \
	"39"
#define GCM_AAD "feedfacedeadbeeffeedfacedeadbeefabaddad2"
#define GCM_NONCE "cafebabefacedbaddecaf888"
#define GCM_KEY "feffe9928665731c6d6a8f9467308308"
#define ZEROS "00000000000000000000000000000000"

/* GCM: test cases 1-4 and 13-16 of the specification submitted to NIST. ChaCha20-Poly1305: RFC 8439 section 2.8.2. */
static const struct vector {
	enum aead_cipher cipher;
	const char *key, *nonce, *aad, *plain, *sealed, *tag;
} vectors[] = {
	{AEAD_AES_128_GCM, ZEROS, "000000000000000000000000", "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"},
	{AEAD_AES_128_GCM, ZEROS, "000000000000000000000000", "", ZEROS, "0388dace60b6a392f328c2b971b2fe78",
         "ab6e47d42cec13bdf53a67b21257bddf"},
	{AEAD_AES_128_GCM, GCM_KEY, GCM_NONCE, "", GCM_PLAIN "1aafd255",
         "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
         "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
         "4d5c2af327cd64a62cf35abd2ba6fab4"},
	{AEAD_AES_128_GCM, GCM_KEY, GCM_NONCE, GCM_AAD, GCM_PLAIN,
         "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
         "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
         "5bc94fbc3221a5db94fae95ae7121a47"},
	{AEAD_AES_256_GCM, ZEROS ZEROS, "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
	{AEAD_AES_256_GCM, ZEROS ZEROS, "000000000000000000000000", "", ZEROS, "cea7403d4d606b6e074ec5d3baf39d18",
         "d0d1c8a799996bf0265b98b5d48ab919"},
	{AEAD_AES_256_GCM, GCM_KEY GCM_KEY, GCM_NONCE, "", GCM_PLAIN "1aafd255",
         "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
         "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
         "b094dac5d93471bdec1a502270e3cc6c"},
	{AEAD_AES_256_GCM, GCM_KEY GCM_KEY, GCM_NONCE, GCM_AAD, GCM_PLAIN,
         "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
         "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
         "76fc6ece0f4e1768cddf8853bb2d551b"},
	{AEAD_CHACHA20_POLY1305, "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f", "070000004041424344454647",
         "50515253c0c1c2c3c4c5c6c7",
         "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f756c64206f66666572207"
         "96f75"
         "206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73637265656e20776f756c642062652069742e",
         "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b"
         "67ecd"
         "3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
         "1ae10b594f09e26a7e902ecbd0600691"},
};

struct message {
	enum aead_cipher cipher;
	unsigned char key[AEAD_KEY_MAX], nonce[AEAD_NONCE], aad[32], tag[AEAD_TAG];
	unsigned char plain[LONGEST], sealed[LONGEST];
	size_t aad_len, n;
};

static struct message m; /* the one under test */
static unsigned char work[LONGEST];

static size_t unhex(unsigned char *to, size_t room, const char *hex)
{
	size_t n = 0;

	cr_assert(*hex == '\0' || OPENSSL_hexstr2buf_ex(to, room, &n, hex, '\0') == 1, "%s", hex);
	return n;
}

static void take_vector(const struct vector *v)
{
	m.cipher = v->cipher;
	cr_assert_eq(unhex(m.key, sizeof(m.key), v->key), aead_key_len(v->cipher));
	cr_assert_eq(unhex(m.nonce, sizeof(m.nonce), v->nonce), AEAD_NONCE);
	m.aad_len = unhex(m.aad, sizeof(m.aad), v->aad);
	m.n = unhex(m.plain, sizeof(m.plain), v->plain);
	cr_assert_eq(unhex(m.sealed, sizeof(m.sealed), v->sealed), m.n);
	cr_assert_eq(unhex(m.tag, sizeof(m.tag), v->tag), AEAD_TAG);
}

/* NULL where the backend does not have the cipher. */
static struct aead *aead_of(const struct aead_backend *backend, bool seal)
{
	struct aead *aead = backend->create(m.cipher, m.key, seal);

	if (aead)
		aead->backend = backend;
	else
		cr_assert(backend != (m.cipher == AEAD_AES_128_CCM ? &aead_ccm : &aead_evp), "these two have every cipher");
	return aead;
}

/* Puts `from` through the cipher to `work`, in pieces of a size, the first of another. */
static void put(struct aead *aead, const unsigned char *from, size_t first, size_t piece)
{
	cr_assert(aead_begin(aead, m.nonce, m.aad, m.aad_len));
	for (size_t at = 0, n; at < m.n; at += n) {
		n = at == 0 ? first : piece;
		n = n < m.n - at ? n : m.n - at;
		cr_assert(aead_update(aead, work + at, from + at, n));
	}
}

static void seals(struct aead *aead, size_t first, size_t piece)
{
	unsigned char tag[AEAD_TAG];

	put(aead, m.plain, first, piece);
	cr_assert(aead_seal(aead, tag));
	cr_assert_eq(memcmp(work, m.sealed, m.n), 0, "%zu bytes, pieces of %zu, then %zu", m.n, first, piece);
	cr_assert_eq(memcmp(tag, m.tag, AEAD_TAG), 0, "%zu bytes, pieces of %zu, then %zu", m.n, first, piece);
}

static void opens(struct aead *aead, size_t first, size_t piece)
{
	put(aead, m.sealed, first, piece);
	cr_assert(aead_open(aead, m.tag), "%zu bytes, pieces of %zu, then %zu", m.n, first, piece);
	cr_assert_eq(memcmp(work, m.plain, m.n), 0, "%zu bytes, pieces of %zu, then %zu", m.n, first, piece);
}

/* What was sealed where it lies is opened where it lies. */
static void in_place(struct aead *sealer, struct aead *opener, size_t piece)
{
	unsigned char tag[AEAD_TAG];

	memcpy(work, m.plain, m.n);
	put(sealer, work, piece, piece);
	cr_assert(aead_seal(sealer, tag));
	cr_assert_eq(memcmp(work, m.sealed, m.n), 0);
	cr_assert_eq(memcmp(tag, m.tag, AEAD_TAG), 0);
	put(opener, work, piece, piece);
	cr_assert(aead_open(opener, tag));
	cr_assert_eq(memcmp(work, m.plain, m.n), 0);
}

static void with_each_backend(void (*check)(struct aead *sealer, struct aead *opener))
{
	for (size_t i = 0; i < BACKENDS; i++) {
		struct aead *sealer = aead_of(backends[i], true), *opener = aead_of(backends[i], false);

		if (sealer)
			check(sealer, opener);
		aead_free(sealer);
		aead_free(opener);
	}
}

static void in_pieces_of_every_size(struct aead *sealer, struct aead *opener)
{
	for (size_t piece = 1; piece <= m.n + 1; piece++) {
		seals(sealer, piece, piece);
		opens(opener, piece, piece);
		in_place(sealer, opener, piece);
	}
}

Test(aead, vectors)
{
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++) {
		take_vector(&vectors[i]);
		with_each_backend(in_pieces_of_every_size);
	}
}

/* Fills the message at random, and seals it by OpenSSL in one go: what all must agree with. */
static void make_message(enum aead_cipher cipher, size_t n, size_t aad_len)
{
	static const char *const names[] = {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305", "AES-128-CCM"};
	EVP_CIPHER *evp = EVP_CIPHER_fetch(NULL, names[cipher], NULL);
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int len;

	for (size_t i = 0; i < sizeof(m); i++)
		((unsigned char *)&m)[i] = (unsigned char)random();
	m.cipher = cipher;
	m.n = n;
	m.aad_len = aad_len;
	cr_assert_eq(EVP_EncryptInit_ex2(ctx, evp, NULL, NULL, NULL), 1);
	if (cipher == AEAD_AES_128_CCM) { /* wants to know all lengths first */
		cr_assert_eq(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, AEAD_NONCE, NULL), 1);
		cr_assert_eq(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG, NULL), 1);
	}
	cr_assert_eq(EVP_EncryptInit_ex2(ctx, NULL, m.key, m.nonce, NULL), 1);
	if (cipher == AEAD_AES_128_CCM)
		cr_assert_eq(EVP_EncryptUpdate(ctx, NULL, &len, NULL, (int)n), 1);
	cr_assert_eq(EVP_EncryptUpdate(ctx, NULL, &len, m.aad, (int)aad_len), 1);
	if (n > 0 || cipher == AEAD_AES_128_CCM)
		cr_assert_eq(EVP_EncryptUpdate(ctx, m.sealed, &len, m.plain, (int)n), 1);
	cr_assert_eq(EVP_EncryptFinal_ex(ctx, m.sealed, &len), 1);
	cr_assert_eq(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG, m.tag), 1);
	EVP_CIPHER_CTX_free(ctx);
	EVP_CIPHER_free(evp);
}

static void with_each_cipher(size_t n, void (*check)(struct aead *sealer, struct aead *opener))
{
	for (size_t i = 0; i < sizeof(ciphers) / sizeof(*ciphers); i++) {
		make_message(ciphers[i], n, n % 3 == 0 ? 13 : 5); /* as in TLS 1.2, TLS 1.3 */
		with_each_backend(check);
	}
}

static void in_two(struct aead *sealer, struct aead *opener)
{
	for (size_t first = 1; first <= m.n; first++) {
		seals(sealer, first, m.n);
		opens(opener, first, m.n);
	}
}

/* Every length, cut in two at every place; then every length of pieces. */
Test(aead, every_length)
{
	for (size_t n = 0; n <= 160; n++) {
		with_each_cipher(n, in_two);
		with_each_cipher(n, in_pieces_of_every_size);
	}
}

static void as_records_are(struct aead *sealer, struct aead *opener)
{
	static const size_t pieces[] = {1, 15, 16, 17, 63, 255, 256, 257, 1000, 4064, 8191, 16384, LONGEST};

	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++)
		for (size_t k = 0; k < sizeof(pieces) / sizeof(*pieces); k++) {
			seals(sealer, pieces[k], pieces[i]);
			opens(opener, pieces[k], pieces[i]);
		}
	in_place(sealer, opener, 4064);
	in_place(sealer, opener, LONGEST);
}

Test(aead, long_messages)
{
	static const size_t sizes[] = {1024, 4000, 4063, 4064, 4065, 16383, 16384, 16385, LONGEST};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		with_each_cipher(sizes[i], as_records_are);
}

/* Puts what lies in `work` through the cipher where it lies. */
static void put_at_random(struct aead *aead)
{
	cr_assert(aead_begin(aead, m.nonce, m.aad, m.aad_len));
	for (size_t at = 0, n; at < m.n; at += n) {
		n = 1 + (size_t)random() % (random() % 2 ? 40 : 3000);
		n = n < m.n - at ? n : m.n - at;
		cr_assert(aead_update(aead, work + at, work + at, n));
	}
}

static void at_random(struct aead *sealer, struct aead *opener)
{
	unsigned char tag[AEAD_TAG];

	for (int turn = 0; turn < 20; turn++) {
		memcpy(work, m.plain, m.n);
		put_at_random(sealer);
		cr_assert(aead_seal(sealer, tag));
		cr_assert_eq(memcmp(work, m.sealed, m.n), 0);
		cr_assert_eq(memcmp(tag, m.tag, AEAD_TAG), 0);
		put_at_random(opener);
		cr_assert(aead_open(opener, m.tag));
		cr_assert_eq(memcmp(work, m.plain, m.n), 0);
	}
}

Test(aead, pieces_at_random)
{
	srandom(1);
	for (int i = 0; i < 100; i++)
		with_each_cipher((size_t)random() % LONGEST, at_random);
}

/* Changes one bit; the message must not open, and must open again once it is changed back. */
static void bit_matters(struct aead *opener, unsigned char *byte, int bit)
{
	*byte ^= (unsigned char)(1 << bit);
	put(opener, m.sealed, 16, 16);
	cr_assert_not(aead_open(opener, m.tag));
	*byte ^= (unsigned char)(1 << bit);
}

static void every_bit_matters(struct aead *sealer, struct aead *opener)
{
	(void)sealer;
	for (int bit = 0; bit < 8; bit++) {
		for (size_t i = 0; i < AEAD_TAG; i++)
			bit_matters(opener, m.tag + i, bit);
		for (size_t i = 0; i < AEAD_NONCE; i++)
			bit_matters(opener, m.nonce + i, bit);
		for (size_t i = 0; i < m.aad_len; i++)
			bit_matters(opener, m.aad + i, bit);
		for (size_t i = 0; i < m.n; i++)
			bit_matters(opener, m.sealed + i, bit);
	}
	m.aad_len--;
	put(opener, m.sealed, m.n, m.n);
	cr_assert_not(aead_open(opener, m.tag), "shorter additional data");
	m.aad_len++;
	m.n--;
	put(opener, m.sealed, m.n, m.n);
	cr_assert_not(aead_open(opener, m.tag), "a byte less");
	m.n++;
	opens(opener, m.n, m.n);
}

Test(aead, every_bit_is_authenticated)
{
	with_each_cipher(0 + 1, every_bit_matters);
	with_each_cipher(33, every_bit_matters);
	with_each_cipher(100, every_bit_matters);
}

/* A message that was given up leaves nothing behind. */
static void begins_anew(struct aead *sealer, struct aead *opener)
{
	cr_assert(aead_begin(sealer, m.key, m.aad, 3));
	cr_assert(aead_update(sealer, work, m.sealed, 7));
	seals(sealer, m.n, m.n);
	cr_assert(aead_begin(opener, m.key, m.aad, 3));
	cr_assert(aead_update(opener, work, m.plain, 7));
	opens(opener, m.n, m.n);
}

Test(aead, a_message_given_up)
{
	with_each_cipher(50, begins_anew);
}

Test(aead, the_choice)
{
	for (size_t i = 0; i < sizeof(ciphers) / sizeof(*ciphers); i++) {
		struct aead *sealer, *opener;

		make_message(ciphers[i], 1000, 5);
		sealer = aead_new(ciphers[i], m.key, true);
		opener = aead_new(ciphers[i], m.key, false);
		cr_assert(sealer && opener);
		seals(sealer, 1000, 1000);
		opens(opener, 1000, 1000);
		in_place(sealer, opener, 100);
		aead_free(sealer);
		aead_free(opener);
	}
	aead_free(NULL);
}

#ifdef HAVE_IPSEC_MB
Test(aead, ipsec_mb_has_aes_gcm_only)
{
	make_message(AEAD_CHACHA20_POLY1305, 1, 5);
	cr_assert_null(aead_ipsec_mb.create(AEAD_CHACHA20_POLY1305, m.key, true));
	for (int i = 0; i < 2; i++) {
		struct aead *aead = aead_ipsec_mb.create(ciphers[i], m.key, true);

		cr_assert_not_null(aead);
		aead_ipsec_mb.destroy(aead);
	}
}
#endif
