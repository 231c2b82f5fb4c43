package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"
)

// The handlers of the auto case, all of one program: /work is worked on as
// args[0] says, /slow makes it take autoSlower times as long, and /fast ends
// that.
const (
	shapeSlots = "slots" // autoSlots at once for autoWork, the rest waits inside
	shapeBends = "bends" // autoKnee at once for autoBend, twice as long for every autoWidth more
	shapeMix   = "mix"   // as many as come, one of autoOneIn for autoLong, the others for autoShort

	autoSlots  = 8
	autoWork   = 10 * time.Millisecond
	autoKnee   = 16
	autoWidth  = 8
	autoBend   = 20 * time.Millisecond
	autoOneIn  = 10
	autoShort  = 5 * time.Millisecond
	autoLong   = 2 * time.Second
	autoSlower = 10
)

func shaped(addr string, args []string) error {
	var (
		free   = make(chan struct{}, autoSlots)
		inside atomic.Int64
		times  atomic.Int64
	)
	times.Store(1)
	shapes := map[string]func(){
		shapeSlots: func() {
			free <- struct{}{}
			time.Sleep(autoWork * time.Duration(times.Load()))
			<-free
		},
		shapeBends: func() {
			over := max(0, float64(inside.Add(1)-autoKnee)/autoWidth)
			time.Sleep(time.Duration(float64(autoBend) * math.Exp2(over)))
			inside.Add(-1)
		},
		shapeMix: func() {
			if rand.IntN(autoOneIn) == 0 {
				time.Sleep(autoLong)
			} else {
				time.Sleep(autoShort)
			}
		},
	}
	work, ok := shapes[args[0]]
	if !ok {
		return fmt.Errorf("no handler is called %q", args[0])
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/slow", func(http.ResponseWriter, *http.Request) { times.Store(autoSlower) })
	mux.HandleFunc("/fast", func(http.ResponseWriter, *http.Request) { times.Store(1) })
	mux.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		work()
		_, _ = io.WriteString(w, "done\n")
	})
	return http.ListenAndServe(addr, mux)
}
