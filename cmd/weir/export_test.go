package main

import "github.com/weir-run/weir/queue"

// Main is weir's, with something between the queue and its store.
func Main(between func(queue.Store) queue.Store) {
	begin(func(w *weir) {
		if w.async != nil {
			w.async.between = between
		}
	})
}
