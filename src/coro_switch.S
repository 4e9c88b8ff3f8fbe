/*
 * The switch between two stacks for x86-64 (System V ABI) and aarch64 (AAPCS64): what a callee must preserve, and nothing else.
 * coro_switch.h has the contract; only coro.c and bench/coro.c may call it. coro_switch_ucontext.c takes over elsewhere.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Shadow stacks (CET SHSTK, aarch64 GCS) keep return addresses where this switch does not look, so it cannot run under them.
 * The property notes below claim branch tracking only; the linker ANDs them over all objects, hence neither the kernel nor libc
 * turns shadow stacks on for the program. Compile with -fcf-protection=branch: `full` would change nothing, the notes are spelt out.
 */

#if defined(__x86_64__) && !defined(__ILP32__)

#ifndef CORO_UCONTEXT
	.text

/*
 * A parked stack, from its saved stack pointer upwards: mxcsr and x87 control word (the ABI makes a callee preserve both),
 * r15 r14 r13 r12 rbx rbp, the address to continue at. The caller-saved registers are dead across a call.
 */
	.globl	coro_switch
	.hidden	coro_switch
	.type	coro_switch, @function
	.balign	64
coro_switch:
	.cfi_startproc
	endbr64
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset rbx, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset r15, 0
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)

	movq	%rsp, (%rdi)
	movq	%rsi, %rsp		/* the other stack has the same frame, so the unwind table stays true */

	ldmxcsr	(%rsp)
	fldcw	4(%rsp)
	addq	$8, %rsp
	.cfi_adjust_cfa_offset -8
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore r12
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore rbp
	ret
	.cfi_endproc
	.size	coro_switch, .-coro_switch

/*
 * rdi low (not needed here), rsi top, rdx entry. Entry sees what a call would have given it: rsp is 8 below a multiple of 16 and
 * points to a return address, which is 0, as is rbp, so that backtraces end there.
 */
	.globl	coro_switch_init
	.hidden	coro_switch_init
	.type	coro_switch_init, @function
	.balign	16
coro_switch_init:
	.cfi_startproc
	endbr64
	xorl	%ecx, %ecx
	leaq	-72(%rsi), %rax
	stmxcsr	(%rax)
	fnstcw	4(%rax)
	movw	%cx, 6(%rax)
	movq	%rcx, 8(%rax)		/* r15 */
	movq	%rcx, 16(%rax)		/* r14 */
	movq	%rcx, 24(%rax)		/* r13 */
	movq	%rcx, 32(%rax)		/* r12 */
	movq	%rcx, 40(%rax)		/* rbx */
	movq	%rcx, 48(%rax)		/* rbp */
	movq	%rdx, 56(%rax)		/* where coro_switch returns to */
	movq	%rcx, 64(%rax)		/* entry's own return address */
	ret
	.cfi_endproc
	.size	coro_switch_init, .-coro_switch_init
#endif

/* NT_GNU_PROPERTY_TYPE_0, GNU_PROPERTY_X86_FEATURE_1_AND: IBT (1), not SHSTK (2). */
	.section .note.gnu.property, "a", @note
	.balign	8
	.long	4, 16, 5
	.asciz	"GNU"
	.long	0xc0000002, 4, 1, 0

#elif defined(__aarch64__)

#ifndef CORO_UCONTEXT
	.arch	armv8-a
	.text

/*
 * A parked stack, from its saved stack pointer upwards: x19-x28, x29 and x30, d8-d15, fpcr.
 * x30 is signed with the stack pointer of the caller where the processor has pointer authentication; these hints are nops elsewhere.
 */
#define PACIASP		hint #25	/* also a landing pad, as `bti c` is */
#define AUTIASP		hint #29
#define PACIA1716	hint #8
#define BTI_C		hint #34

	.globl	coro_switch
	.hidden	coro_switch
	.type	coro_switch, %function
	.balign	64
coro_switch:
	.cfi_startproc
	PACIASP
	.cfi_negate_ra_state
	sub	sp, sp, #176
	.cfi_adjust_cfa_offset 176
	stp	x19, x20, [sp, #0]
	stp	x21, x22, [sp, #16]
	stp	x23, x24, [sp, #32]
	stp	x25, x26, [sp, #48]
	stp	x27, x28, [sp, #64]
	stp	x29, x30, [sp, #80]
	.cfi_rel_offset x29, 80
	.cfi_rel_offset x30, 88
	stp	d8, d9, [sp, #96]
	stp	d10, d11, [sp, #112]
	stp	d12, d13, [sp, #128]
	stp	d14, d15, [sp, #144]
	mrs	x9, fpcr
	str	x9, [sp, #160]

	mov	x10, sp
	str	x10, [x0]
	mov	sp, x1			/* the other stack has the same frame, so the unwind table stays true */

	ldr	x10, [sp, #160]
	cmp	x9, x10			/* writing fpcr drains the pipeline, and it is nearly always equal */
	b.eq	1f
	msr	fpcr, x10
1:	ldp	x19, x20, [sp, #0]
	ldp	x21, x22, [sp, #16]
	ldp	x23, x24, [sp, #32]
	ldp	x25, x26, [sp, #48]
	ldp	x27, x28, [sp, #64]
	ldp	x29, x30, [sp, #80]
	ldp	d8, d9, [sp, #96]
	ldp	d10, d11, [sp, #112]
	ldp	d12, d13, [sp, #128]
	ldp	d14, d15, [sp, #144]
	add	sp, sp, #176
	.cfi_adjust_cfa_offset -176
	.cfi_restore x29
	.cfi_restore x30
	AUTIASP
	.cfi_negate_ra_state
	ret
	.cfi_endproc
	.size	coro_switch, .-coro_switch

/* x0 low (not needed here), x1 top, x2 entry. The first switch returns into coro_begin, which finds entry in x19. */
	.globl	coro_switch_init
	.hidden	coro_switch_init
	.type	coro_switch_init, %function
	.balign	16
coro_switch_init:
	.cfi_startproc
	BTI_C
	mov	x16, x1			/* signed with the stack pointer that coro_switch has when it returns */
	adr	x17, coro_begin
	PACIA1716
	sub	x0, x1, #176
	stp	x2, xzr, [x0, #0]
	stp	xzr, xzr, [x0, #16]
	stp	xzr, xzr, [x0, #32]
	stp	xzr, xzr, [x0, #48]
	stp	xzr, xzr, [x0, #64]
	stp	xzr, x17, [x0, #80]
	stp	xzr, xzr, [x0, #96]
	stp	xzr, xzr, [x0, #112]
	stp	xzr, xzr, [x0, #128]
	stp	xzr, xzr, [x0, #144]
	mrs	x9, fpcr
	stp	x9, xzr, [x0, #160]
	ret
	.cfi_endproc
	.size	coro_switch_init, .-coro_switch_init

	.type	coro_begin, %function
	.balign	16
coro_begin:
	.cfi_startproc
	.cfi_undefined x30
	mov	x16, x19		/* a branch through x16 may land on `bti c` */
	mov	x30, xzr		/* backtraces end here */
	br	x16
	.cfi_endproc
	.size	coro_begin, .-coro_begin
#endif

/* NT_GNU_PROPERTY_TYPE_0, GNU_PROPERTY_AARCH64_FEATURE_1_AND: BTI (1) and PAC (2), not GCS (4). */
	.section .note.gnu.property, "a", %note
	.balign	8
	.long	4, 16, 5
	.asciz	"GNU"
	.long	0xc0000000, 4, 3, 0

#endif

	.section .note.GNU-stack, "", %progbits
