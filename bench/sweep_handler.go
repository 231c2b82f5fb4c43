package main

import (
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slots is the handler of the sweep, and like most of its kind: it takes what
// it is given, each request takes memory from its arrival to its end, args[0]
// of them are worked on at once for the time of args[1] each, the others wait
// inside in the order in which they came, and one whose client has left is
// worked off like any other. args[2] is the memory in bytes.
func slots(addr string, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	work, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	memory, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	memory = (memory + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	free := make(chan struct{}, n)
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/work" {
			return
		}
		// Not the collector's memory, which would be given back some time.
		held, err := unix.Mmap(-1, 0, memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer func() { _ = unix.Munmap(held) }()
		free <- struct{}{}
		time.Sleep(work)
		<-free
		_, _ = w.Write([]byte("done\n"))
	}))
}
