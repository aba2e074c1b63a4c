// SPDX-License-Identifier: GPL-2.0
/* A strict parser of JSON (RFC 8259), that keeps the rows of the table. */
#define _GNU_SOURCE
#include "check.h"

struct text {
	const char *at;
	const char *end;
	bool good;
	struct row *rows;
	size_t count;
	size_t room;
};

struct value {
	char kind;		/* of its first byte: " { [ 0 n t f */
	uint64_t number;
	char string[1024];
	size_t length;
};

static void parse_value(struct text *t, struct value *v, int depth);

static bool accept(struct text *t, char c)
{
	if (t->at < t->end && *t->at == c) {
		t->at++;
		return true;
	}
	return false;
}

static void require(struct text *t, const char *word)
{
	for (; *word; word++)
		if (!accept(t, *word))
			t->good = false;
}

static void blanks(struct text *t)
{
	while (t->at < t->end && strchr(" \t\r\n", *t->at) && *t->at)
		t->at++;
}

static unsigned int hex(struct text *t)
{
	unsigned int code = 0;

	for (int i = 0; i < 4; i++) {
		static const char digits[] = "0123456789abcdef";
		const char *digit = t->at < t->end && *t->at ? strchr(digits, *t->at | 0x20) : NULL;

		if (!digit) {
			t->good = false;
			return 0;
		}
		code = code * 16 + (digit - digits);
		t->at++;
	}
	return code;
}

static unsigned int escape(struct text *t)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name;

	if (accept(t, 'u'))
		return hex(t);
	name = t->at < t->end && *t->at ? strchr(names, *t->at) : NULL;
	if (!name) {
		t->good = false;
		return 0;
	}
	t->at++;
	return values[name - names];
}

/* The modules write bytes: none above 0xff, and all of the text ASCII. */
static void parse_string(struct text *t, struct value *v)
{
	v->length = 0;
	while (t->good && !accept(t, '"')) {
		unsigned int c;

		if (t->at >= t->end || (unsigned char)*t->at < 0x20 || (unsigned char)*t->at > 0x7e) {
			t->good = false;
			return;
		}
		c = *t->at++;
		if (c == '\\')
			c = escape(t);
		if (c > 0xff || v->length >= sizeof(v->string) - 1) {
			t->good = false;
			return;
		}
		v->string[v->length++] = c;
	}
	v->string[v->length] = 0;
}

static void parse_number(struct text *t, struct value *v)
{
	const char *start = t->at;

	v->number = 0;
	while (t->at < t->end && *t->at >= '0' && *t->at <= '9')
		v->number = v->number * 10 + (*t->at++ - '0');
	if (t->at == start || (*start == '0' && t->at - start > 1))
		t->good = false;
	if (accept(t, '.')) {
		start = t->at;
		while (t->at < t->end && *t->at >= '0' && *t->at <= '9')
			t->at++;
		t->good = t->good && t->at > start;
	}
}

static void keep(struct row *row, size_t column, const struct value *v)
{
	struct latido_record *r = &row->record;
	uint64_t n = v->kind == 'n' ? LATIDO_UNKNOWN : v->number;

	switch (column) {
	case 0: r->pid = n; break;
	case 1: r->ppid = n; break;
	case 2: r->uid = n; break;
	case 3: memcpy(r->command, v->string, v->length < 16 ? v->length : 16); break;
	case 4: r->state = v->string[0]; break;
	case 5: r->threads = n; break;
	case 6: r->user_ns = n; break;
	case 7: r->system_ns = n; break;
	case 8: r->start_ns = n; break;
	case 9: r->rss_bytes = n; break;
	case 10: r->virtual_bytes = n; break;
	case 11: r->swap_bytes = n; break;
	case 12: r->minor_faults = n; break;
	case 13: r->major_faults = n; break;
	case 14: r->read_bytes = n; break;
	case 15: r->written_bytes = n; break;
	case 16: r->voluntary_switches = n; break;
	case 17: r->involuntary_switches = n; break;
	case 18: memcpy(row->cgroup, v->string, v->length + 1); break;
	}
}

static void parse_rows(struct text *t)
{
	struct value v;

	require(t, "[");
	blanks(t);
	if (accept(t, ']'))
		return;
	do {
		size_t column = 0;

		if (t->count == t->room) {
			t->room = t->room ? t->room * 2 : 1024;
			t->rows = realloc(t->rows, t->room * sizeof(*t->rows));
			MUST(t->rows);
		}
		memset(&t->rows[t->count], 0, sizeof(*t->rows));
		blanks(t);
		require(t, "[");
		do {
			v.length = 0;
			v.string[0] = 0;
			parse_value(t, &v, 3);
			keep(&t->rows[t->count], column++, &v);
		} while (t->good && accept(t, ','));
		require(t, "]");
		t->good = t->good && column == 19;
		t->count++;
		blanks(t);
	} while (t->good && accept(t, ','));
	require(t, "]");
}

static void parse_object(struct text *t, int depth)
{
	struct value key, v;

	blanks(t);
	if (accept(t, '}'))
		return;
	do {
		blanks(t);
		require(t, "\"");
		parse_string(t, &key);
		blanks(t);
		require(t, ":");
		blanks(t);
		if (depth == 0 && !strcmp(key.string, "processes"))
			parse_rows(t);
		else
			parse_value(t, &v, depth + 1);
		blanks(t);
	} while (t->good && accept(t, ','));
	require(t, "}");
}

static void parse_array(struct text *t, int depth)
{
	struct value v;

	blanks(t);
	if (accept(t, ']'))
		return;
	do {
		parse_value(t, &v, depth + 1);
		blanks(t);
	} while (t->good && accept(t, ','));
	require(t, "]");
}

static void parse_value(struct text *t, struct value *v, int depth)
{
	blanks(t);
	if (!t->good || t->at >= t->end || depth > 8) {
		t->good = false;
		return;
	}
	v->kind = *t->at;
	if (accept(t, '"'))
		parse_string(t, v);
	else if (accept(t, '{'))
		parse_object(t, depth);
	else if (accept(t, '['))
		parse_array(t, depth);
	else if (v->kind == 'n')
		require(t, "null");
	else
		parse_number(t, v);
}

bool parse_json(const char *text, size_t size, struct row **rows, size_t *count)
{
	struct text t = { .at = text, .end = text + size, .good = true };
	struct value v;

	parse_value(&t, &v, 0);
	blanks(&t);
	if (rows) {
		*rows = t.rows;
		*count = t.count;
	} else {
		free(t.rows);
	}
	return t.good && t.at == t.end && v.kind == '{';
}
