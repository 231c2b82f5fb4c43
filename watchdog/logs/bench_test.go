package logs_test

import (
	"log"
	"testing"

	"github.com/weir-run/weir/watchdog/logs"
)

const line = "2026/11/21 02:00:00 GET /api/items/4711?verbose=1 - 200 OK - ContentLength: 1.2KB (0.0123s)\n"

// What a line costs the request it tells of: to a file, through ours and
// straight by the standard logger, by one goroutine and by 16 on every core.
func BenchmarkFile(b *testing.B) {
	text := []byte(line)
	straight := log.New(openFile(b), "", 0)
	ours := logs.New(openFile(b))
	defer func() { _ = ours.Close() }()
	through := log.New(ours, "", 0)
	for _, c := range []struct {
		name  string
		write func() error
	}{
		{"log.Logger", func() error { return straight.Output(2, line) }},
		{"log.Logger through Writer", func() error { return through.Output(2, line) }},
		{"Writer", func() error { _, err := ours.Write(text); return err }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				_ = c.write()
			}
		})
		b.Run(c.name+"/parallel", func(b *testing.B) {
			b.SetParallelism(16)
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = c.write()
				}
			})
		})
	}
}
