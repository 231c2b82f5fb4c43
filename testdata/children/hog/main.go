// Command hog is a handler that uses things up. With arguments, a query such
// as "mib=50&ms=500", it serves one request as a fork: it takes and answers.
// Without, it serves HTTP on LISTEN:
//
//	/take?mib=50&ms=500   takes memory, touches every page, gives it back at
//	                      the end of the time; how=mmap (default) or heap;
//	                      ramp=1s takes it little by little; kib= is finer;
//	                      mix=N takes 1 MiB but for one request of N
//	/keep?mib=N           what it keeps from now on; 0 gives all back
//	/fds?n=N&ms=20        opens N descriptors more and never closes them
//	/wait?file=F          answers when the file F is there
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		query, err := url.ParseQuery(os.Args[1])
		if err != nil {
			fail(err)
		}
		io.Copy(io.Discard, os.Stdin)
		take(query)
		fmt.Print("taken")
		return
	}
	http.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		take(r.URL.Query())
		io.WriteString(w, "taken")
	})
	http.HandleFunc("/keep", func(w http.ResponseWriter, r *http.Request) {
		keep(number(r.URL.Query(), "mib") << 20)
		io.WriteString(w, "kept")
	})
	http.HandleFunc("/fds", func(w http.ResponseWriter, r *http.Request) {
		for range number(r.URL.Query(), "n") {
			if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		pause(r.URL.Query())
		io.WriteString(w, "leaked")
	})
	http.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := os.Stat(r.URL.Query().Get("file")); err == nil || r.Context().Err() != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		io.WriteString(w, "waited")
	})
	fail(http.ListenAndServe(os.Getenv("LISTEN"), nil))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func number(query url.Values, name string) int {
	n, _ := strconv.Atoi(query.Get(name))
	return n
}

func pause(query url.Values) { time.Sleep(time.Duration(number(query, "ms")) * time.Millisecond) }

var requests atomic.Int64

func take(query url.Values) {
	size := number(query, "mib") << 20
	if kib := number(query, "kib"); kib > 0 {
		size = kib << 10
	}
	if mix := number(query, "mix"); mix > 0 && requests.Add(1)%int64(mix) != 0 {
		size = 1 << 20
	}
	memory, free := allocate(size, query.Get("how"))
	defer free()
	if ramp, err := time.ParseDuration(query.Get("ramp")); err == nil {
		const steps = 50
		for i := range steps {
			touch(memory[len(memory)*i/steps : len(memory)*(i+1)/steps])
			time.Sleep(ramp / steps)
		}
	} else {
		touch(memory)
	}
	pause(query)
	touch(memory) // in use to the end
}

func allocate(size int, how string) (memory []byte, free func()) {
	if how == "heap" || size == 0 {
		return make([]byte, size), func() {}
	}
	memory, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return memory, func() { syscall.Munmap(memory) }
}

func touch(memory []byte) {
	for i := 0; i < len(memory); i += 4096 {
		memory[i]++
	}
}

var kept struct {
	sync.Mutex
	memory []byte
	free   func()
}

func keep(size int) {
	kept.Lock()
	defer kept.Unlock()
	if kept.free != nil {
		kept.free()
	}
	kept.memory, kept.free = allocate(size, "")
	touch(kept.memory)
}
