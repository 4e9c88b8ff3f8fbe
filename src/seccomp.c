/*
 * Seccomp: see seccomp.h. A list of what is refused, not of what is allowed: libc, NSS modules and allocators of other machines make calls that nobody
 * here has seen, and a list that kills them would be switched off.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "seccomp.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { OWN_ARCH = (int)AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
enum { OWN_ARCH = (int)AUDIT_ARCH_AARCH64 };
#else
enum { OWN_ARCH = 0 }; /* no filter */
#endif

/* Sanitizers look at their own process with ptrace(2) from a clone, and run a program that names addresses. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { FOREIGN_CALLS = 0x40000000, FILTER_MAX = 256 };

static const int programs[] = {SYS_execve, SYS_execveat};

static const int other_processes[] = {SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_kcmp};

/* Keys of the kernel: TPM and PKCS#11 libraries know them. */
static const int keys[] = {SYS_add_key, SYS_request_key, SYS_keyctl};

static const int never[] = {
	/* large parts of the kernel that a proxy has no use for */
	SYS_bpf,
	SYS_perf_event_open,
	SYS_userfaultfd,
	SYS_fanotify_init,
	SYS_fanotify_mark,
	SYS_name_to_handle_at,
	SYS_open_by_handle_at,
	SYS_lookup_dcookie,
	SYS_quotactl,
	/* a ring of its own would have none of the restrictions that ours have */
	SYS_io_uring_setup,
	/* the machine */
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_kexec_load,
	SYS_reboot,
	SYS_acct,
	SYS_swapon,
	SYS_swapoff,
	SYS_syslog,
	SYS_vhangup,
	SYS_sethostname,
	SYS_setdomainname,
	SYS_settimeofday,
	SYS_clock_settime,
	SYS_adjtimex,
	SYS_clock_adjtime,
	/* other roots and namespaces */
	SYS_unshare,
	SYS_setns,
	SYS_chroot,
	SYS_pivot_root,
	SYS_mount,
	SYS_umount2,
	SYS_open_tree,
	SYS_move_mount,
	SYS_fsopen,
	SYS_fsconfig,
	SYS_fsmount,
	SYS_fspick,
	SYS_mount_setattr,
	SYS_mknodat,
	/* other users */
	SYS_setuid,
	SYS_setgid,
	SYS_setreuid,
	SYS_setregid,
	SYS_setresuid,
	SYS_setresgid,
	SYS_setgroups,
	SYS_setfsuid,
	SYS_setfsgid,
	SYS_capset,
	/* other ways to see memory and code */
	SYS_personality,
	SYS_process_madvise,
#if defined(__x86_64__)
	SYS_iopl,
	SYS_ioperm,
	SYS_modify_ldt,
	SYS_kexec_file_load,
	SYS_mknod,
	SYS_uselib,
#endif
};

struct filter {
	struct sock_filter code[FILTER_MAX];
	unsigned short n;
};

static void put(struct filter *f, struct sock_filter instruction)
{
	if (f->n < FILTER_MAX)
		f->code[f->n++] = instruction;
}

/* The instructions, with the fields of struct seccomp_data that are looked at. Arguments are little-endian on what we run on: the low half. */
static void load(struct filter *f, size_t offset)
{
	put(f, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offset));
}

static void load_call(struct filter *f)
{
	load(f, offsetof(struct seccomp_data, nr));
}

static void load_argument(struct filter *f, unsigned i)
{
	load(f, offsetof(struct seccomp_data, args) + i * sizeof(unsigned long long));
}

static void jump(struct filter *f, unsigned short how, unsigned value, unsigned char yes, unsigned char no)
{
	put(f, (struct sock_filter)BPF_JUMP(BPF_JMP | how | BPF_K, value, yes, no));
}

static void refuse(struct filter *f, int error)
{
	put(f, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error));
}

static void allow(struct filter *f)
{
	put(f, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

static void refuse_all(struct filter *f, const int *calls, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		jump(f, BPF_JEQ, (unsigned)calls[i], 0, 1);
		refuse(f, EPERM);
	}
}

#define REFUSE_ALL(f, calls) refuse_all(f, calls, sizeof(calls) / sizeof(*(calls)))

/* Numbers of the 32-bit and x32 calls mean something else. */
static void refuse_foreign(struct filter *f)
{
	load(f, offsetof(struct seccomp_data, arch));
	jump(f, BPF_JEQ, (unsigned)OWN_ARCH, 1, 0);
	refuse(f, ENOSYS);
	load_call(f);
	jump(f, BPF_JGE, FOREIGN_CALLS, 0, 1);
	refuse(f, ENOSYS);
}

/* Memory that can be written and run at once. */
static void refuse_writable_code(struct filter *f, int call)
{
	jump(f, BPF_JEQ, (unsigned)call, 0, 5);
	load_argument(f, 2);
	put(f, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC));
	jump(f, BPF_JEQ, PROT_WRITE | PROT_EXEC, 0, 1);
	refuse(f, EPERM);
	load_call(f);
}

/* clone3(2) cannot be looked into: libc takes clone(2) then, which may start threads and processes but no namespaces. */
static void refuse_namespaces(struct filter *f)
{
	unsigned namespaces =
		CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

	jump(f, BPF_JEQ, SYS_clone3, 0, 1);
	refuse(f, ENOSYS);
	jump(f, BPF_JEQ, SYS_clone, 0, 4);
	load_argument(f, 0);
	jump(f, BPF_JSET, namespaces, 0, 1);
	refuse(f, EPERM);
	load_call(f);
}

/* Typing into the terminal that we were started from. */
static void refuse_typing(struct filter *f)
{
	jump(f, BPF_JEQ, SYS_ioctl, 0, 5);
	load_argument(f, 1);
	jump(f, BPF_JEQ, TIOCSTI, 1, 0);
	jump(f, BPF_JEQ, TIOCLINUX, 0, 1);
	refuse(f, EPERM);
	load_call(f);
}

/* TCP, UDP, Unix sockets, and the netlink that libc asks for addresses. */
static void refuse_sockets(struct filter *f)
{
	jump(f, BPF_JEQ, SYS_socket, 0, 13);
	load_argument(f, 0);
	jump(f, BPF_JEQ, AF_UNIX, 10, 0);
	jump(f, BPF_JEQ, AF_NETLINK, 6, 0);
	jump(f, BPF_JEQ, AF_INET, 2, 0);
	jump(f, BPF_JEQ, AF_INET6, 1, 0);
	refuse(f, EAFNOSUPPORT);
	load_argument(f, 1);
	put(f, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf));
	jump(f, BPF_JEQ, SOCK_RAW, 2, 3);
	load_argument(f, 2);
	jump(f, BPF_JEQ, NETLINK_ROUTE, 1, 0);
	refuse(f, EPERM);
	load_call(f);
}

static void compose(struct filter *f, bool strangers, bool runs)
{
	refuse_foreign(f);
	load_call(f);
	REFUSE_ALL(f, never);
	if (!SANITIZED)
		REFUSE_ALL(f, other_processes);
	if (!SANITIZED && !strangers && !runs)
		REFUSE_ALL(f, programs);
	if (!strangers)
		REFUSE_ALL(f, keys);
	refuse_writable_code(f, SYS_mmap);
	refuse_writable_code(f, SYS_mprotect);
	refuse_writable_code(f, SYS_pkey_mprotect);
	refuse_namespaces(f);
	refuse_typing(f);
	if (!strangers)
		refuse_sockets(f);
	allow(f);
}

int seccomp_restrict(bool strangers, bool runs)
{
	struct filter f = {.n = 0};
	struct sock_fprog program = {.filter = f.code};
	long result;

	if (!OWN_ARCH)
		return -EOPNOTSUPP;
	compose(&f, strangers, runs);
	program.len = f.n;
	if (f.n == FILTER_MAX)
		return -E2BIG;
	result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
	return result < 0 ? -errno : result > 0 ? -EBUSY : 0; /* the id of a thread that has a filter of its own */
}
