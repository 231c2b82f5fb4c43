package queue_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/queuetest"
)

// BenchmarkCallback sends callbacks to receivers on loopback.
func BenchmarkCallback(b *testing.B) {
	for _, hosts := range []int{1, 16} {
		b.Run(fmt.Sprintf("receivers=%d", hosts), func(b *testing.B) {
			var came atomic.Int64
			done := make(chan struct{})
			var urls []string
			for range hosts {
				server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					if came.Add(1) == int64(b.N) {
						close(done)
					}
				}))
				defer server.Close()
				urls = append(urls, server.URL)
			}
			memory := queuetest.NewMemory(queuetest.Config{})
			c, err := queue.NewCallbackSender(queue.CallbackConfig{Allow: []string{"127.0.0.1"}, MaxBody: 1 << 20},
				queue.CallbackParts{Store: memory.Store(), Log: (&senders{}).logger()})
			if err != nil {
				b.Fatal(err)
			}
			answer := &queue.Answer{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: make([]byte, 1024), Size: 1024}
			for i := range b.N {
				m := &queue.Message{Function: function.Ref{Name: "f", Namespace: "fn"}, Callback: urls[i%hosts]}
				id := queue.ID{Nonce: queue.Nonce{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}, Seq: uint64(i) + 1}
				if err := c.Put(context.Background(), m, id, &queue.Call{State: queue.Succeeded, Code: 200, Ended: time.Now()}, answer); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			_, kill := begin(c)
			<-done
			b.StopTimer()
			kill()
		})
	}
}
