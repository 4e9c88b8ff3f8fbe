/*
 * Tells who it is: arguments, environment, open descriptors, signals, what getpeername(2) says of descriptor 0. For test_exec.py, as a program of `exec`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

extern char **environ;

static void tell_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[PATH_MAX], target[PATH_MAX];
		ssize_t n;

		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		printf("fd %s %s\n", entry->d_name, target);
	}
	if (dir)
		closedir(dir);
}

static void tell_signals(void)
{
	struct sigaction action;
	sigset_t mask;

	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int i = 1; i < SIGRTMIN; i++) {
		if (sigismember(&mask, i) == 1)
			printf("blocked %d\n", i);
		if (sigaction(i, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
			printf("ignored %d\n", i);
	}
}

static void tell_peer(int fd)
{
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage storage;
	} peer;
	socklen_t len = sizeof(peer);
	char text[INET6_ADDRSTRLEN];

	if (getpeername(fd, &peer.sa, &len) < 0)
		printf("peer %d: %s\n", fd, strerror(errno));
	else if (peer.sa.sa_family == AF_INET)
		printf("peer %d: %s %d length %d\n", fd, inet_ntop(AF_INET, &peer.in.sin_addr, text, sizeof(text)),
		       ntohs(peer.in.sin_port), (int)len);
	else if (peer.sa.sa_family == AF_INET6)
		printf("peer %d: %s %d length %d\n", fd, inet_ntop(AF_INET6, &peer.in6.sin6_addr, text, sizeof(text)),
		       ntohs(peer.in6.sin6_port), (int)len);
	else
		printf("peer %d: family %d\n", fd, peer.sa.sa_family);
}

int main(int argc, char **argv)
{
	struct rlimit files;

	for (int i = 0; i < argc; i++)
		printf("arg %s\n", argv[i]);
	for (char **at = environ; *at; at++)
		printf("env %s\n", *at);
	tell_descriptors();
	tell_signals();
	tell_peer(0);
	tell_peer(dup(0));
	getrlimit(RLIMIT_NOFILE, &files);
	printf("nofile %llu\n", (unsigned long long)files.rlim_cur);
	printf("session %d group %d parent %d tty %s\n", getsid(0) == getpid(), getpgrp() == getpid(), (int)getppid(),
	       isatty(0) ? ttyname(0) : "no");
	return argc > 1 && strcmp(argv[1], "code") == 0 ? atoi(argv[2]) : 0;
}
