// SPDX-License-Identifier: GPL-2.0
/* check NAME [NUMBER...]: runs one check of the modules in the guest. */
#include <unistd.h>

#include "check.h"

static int number(int argc, char **argv, int place, int otherwise)
{
	return place < argc ? atoi(argv[place]) : otherwise;
}

/* Rests with so many children that rest, and says when they are there. */
static int crowd(int children)
{
	for (int i = 0; i < children; i++) {
		pid_t pid = fork();

		MUST(pid >= 0);
		if (!pid) {
			set_name("crowd");
			return pause();
		}
	}
	puts("READY");
	return pause();
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(name, "true"))
		return 0;
	if (!strcmp(name, "rest")) {
		MUST(write(9, "", 1) == 1);
		return pause();
	}
	if (!strcmp(name, "crowd"))
		return crowd(number(argc, argv, 2, 5000));
	if (!strcmp(name, "form"))
		check_form();
	else if (!strcmp(name, "fields"))
		check_fields();
	else if (!strcmp(name, "namespace"))
		check_namespace();
	else if (!strcmp(name, "exits"))
		check_exits();
	else if (!strcmp(name, "storm"))
		check_storm(number(argc, argv, 2, 500), number(argc, argv, 3, 3000000));
	else if (!strcmp(name, "burst"))
		check_burst(number(argc, argv, 2, 500));
	else if (!strcmp(name, "keys"))
		check_keys(number(argc, argv, 2, 2500));
	else if (!strcmp(name, "churn"))
		check_churn(number(argc, argv, 2, 10));
	else
		MUST(!"a name of a check");
	return !!failed_checks();
}
