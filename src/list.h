/*
 * Doubly linked lists whose links live inside their members: no allocation, O(1) removal.
 * Everyone may use it. A list head is a struct list that is not embedded in a member.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LIST_H
#define TLSPLICE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
	head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_append(struct list *head, struct list *item)
{
	item->prev = head->prev;
	item->next = head;
	head->prev->next = item;
	head->prev = item;
}

/* Takes an item out of its list; removing an item that list_init() made is harmless. */
static inline void list_remove(struct list *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	list_init(item);
}

#define list_first(head, type, member) container_of((head)->next, type, member)

/* The body may remove `it` from the list. */
#define list_each(it, tmp, head) for (struct list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

#endif
