// Every aclnn operator has a signature of its own, and none is known here: a call is handed on as the registers and the stack
// that it came in. x86-64, System V calling convention: whole numbers and addresses in rdi rsi rdx rcx r8 r9, floating-point
// numbers in xmm0-xmm7, each kind in order; what is left over lies on the stack above the return address, 8 bytes apiece,
// both kinds in the order of the arguments. wire.py reads it in this order.
#ifndef __x86_64__
#error "the simulator reads calls as x86-64 makes them; another processor needs its own trampoline.S and wire.py"
#endif
.text
.hidden deepport_cann_prepare
.hidden deepport_cann_execute

.type prepare, @function
prepare:
    .cfi_startproc
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset 6, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register 6
    subq $112, %rsp
    movq %rdi, 0(%rsp)
    movq %rsi, 8(%rsp)
    movq %rdx, 16(%rsp)
    movq %rcx, 24(%rsp)
    movq %r8, 32(%rsp)
    movq %r9, 40(%rsp)
    movsd %xmm0, 48(%rsp)
    movsd %xmm1, 56(%rsp)
    movsd %xmm2, 64(%rsp)
    movsd %xmm3, 72(%rsp)
    movsd %xmm4, 80(%rsp)
    movsd %xmm5, 88(%rsp)
    movsd %xmm6, 96(%rsp)
    movsd %xmm7, 104(%rsp)
    movl %eax, %edi          // the operator's number, from OPERATOR
    leaq 0(%rsp), %rsi
    leaq 48(%rsp), %rdx
    leaq 16(%rbp), %rcx      // above the saved rbp and the return address
    call deepport_cann_prepare
    leave
    .cfi_def_cfa 7, 8
    ret
    .cfi_endproc

#define OPERATOR(number, name)                                                                                                   \
    .globl name##GetWorkspaceSize; .type name##GetWorkspaceSize, @function; name##GetWorkspaceSize: movl $(number), %eax; jmp prepare; \
    .globl name; .type name, @function; name: jmp deepport_cann_execute;
#include "operators.inc"
.section .note.GNU-stack, "", @progbits
