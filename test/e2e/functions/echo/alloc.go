package main

import (
	"fmt"
	"net/http"
)

// hoard is what was taken and is never given back.
var hoard [][]byte

// alloc takes memory, every page of it, until the kernel has another opinion.
func alloc(w http.ResponseWriter, r *http.Request) {
	const page = 4 << 10
	for range number(r, "mb") {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += page {
			b[i] = 1
		}
		hoard = append(hoard, b)
	}
	identify(w.Header())
	fmt.Fprintf(w, "%d MiB\n", len(hoard))
}
