// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// What happens to a frame before the kernel's network stack would see it: it goes to the AF_XDP
// socket of the queue it came in by, or nowhere. Nothing is ever passed up, so a device whose
// Postern has stopped, or has not started yet, is closed.
//
// Self-contained: the few declarations below are those of linux/bpf.h, so that building needs
// nothing but clang.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define MAP_FIELD(name, value) int (*name)[value]

enum { BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_XSKMAP = 17 };
enum { XDP_DROP = 1, XDP_REDIRECT = 4 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

// The socket of each queue. The kernel removes a socket that is closed.
struct {
	MAP_FIELD(type, BPF_MAP_TYPE_XSKMAP);
	MAP_FIELD(max_entries, 256);
	u32 *key;
	u32 *value;
} xsks SECTION(".maps");

// Frames dropped because their queue had no socket: one counter.
struct {
	MAP_FIELD(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_FIELD(max_entries, 1);
	u32 *key;
	u64 *value;
} unclaimed SECTION(".maps");

SECTION("xdp")
int steer(struct xdp_md *frame)
{
	// The low bits of the flags are the verdict when the map has no entry.
	long verdict = bpf_redirect_map(&xsks, frame->rx_queue_index, XDP_DROP);
	if (verdict != XDP_REDIRECT) {
		u32 first = 0;
		u64 *count = bpf_map_lookup_elem(&unclaimed, &first);
		if (count)
			*count += 1;
		return XDP_DROP;
	}
	return XDP_REDIRECT;
}

// The map helpers are open to any licence; the tag names ours.
char _license[] SECTION("license") = "Dual BSD/GPL";
