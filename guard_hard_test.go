package main_test

import "testing"

// Memory that does not follow what runs.
func TestMemoryGuardHardCases(t *testing.T) {
	for _, v := range []variant{
		{name: "mix of 1 and 40 MiB", mean: 1.5, path: "/take?mib=40&ms=500&mix=4"},
		// An interpreter that takes seconds until it takes memory.
		{name: "slow processor", mean: 1.5, fork: true, cpu: 0.3, env: func(t testing.TB) []string {
			return []string{"mode=streaming", "fprocess=" + interpreter(t, "python3") +
				` -c 'import http.server, json, time; taken = bytearray(50 << 20); time.sleep(0.5); print("taken", end="")'`}
		}},
	} {
		t.Run(v.name, v.run)
	}
}
