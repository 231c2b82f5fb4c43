package jetstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-run/weir/test/programtest"
)

// TestAnItemMayComeAfterTheEnd: a cluster says that a request is over before
// most of its servers know of the last items, which come after that.
func TestAnItemMayComeAfterTheEnd(t *testing.T) {
	s := openInside(t)
	item := func(place int) *nats.Msg {
		return &nats.Msg{Subject: s.subject(lane), Reply: fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.1.0", s.queueName(), consumerName(lane), place, place)}
	}
	over := func(status, description, left string) *nats.Msg {
		msg := &nats.Msg{Header: nats.Header{"Status": {status}, "Description": {description}}}
		if left != "" {
			msg.Header.Set("Nats-Pending-Messages", left)
		}
		return msg
	}
	for name, c := range map[string]struct {
		comes []*nats.Msg
		items int
		end   answer
	}{
		"after the whole batch":  {[]*nats.Msg{item(1), over("409", "Batch Completed", "0"), item(2), item(3)}, 3, later},
		"after a part of it":     {[]*nats.Msg{over("408", "Request Timeout", "1"), item(1), item(2)}, 2, nothing},
		"after one is too large": {[]*nats.Msg{over("409", "Message Size Exceeds MaxBytes", "2"), item(1)}, 1, tooMuch},
		"nothing at all":         {[]*nats.Msg{over("408", "Request Timeout", "3")}, 0, nothing},
		"nothing is said":        {[]*nats.Msg{item(1), over("404", "No Messages", "")}, 1, nothing},
		"nonsense is said":       {[]*nats.Msg{item(1), over("408", "Request Timeout", "-7")}, 1, nothing},
		"one never comes":        {[]*nats.Msg{over("409", "Batch Completed", "0"), item(1)}, 1, silence},
	} {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan *nats.Msg, len(c.comes))
			for _, msg := range c.comes {
				arrived <- msg
			}
			items, end, err := s.collect(t.Context(), arrived, pull{Batch: 3})
			if err != nil || len(items) != c.items || end != c.end {
				t.Errorf("%d items and %d, %v; want %d and %d", len(items), end, err, c.items, c.end)
			}
		})
	}
}

// TestAClusterDeliversOnce: no item is left to its lease.
func TestAClusterDeliversOnce(t *testing.T) {
	var routes, urls []string
	var ports []int
	for range 3 {
		ports = append(ports, programtest.FreePort(t))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[len(ports)-1]))
	}
	for _, at := range ports {
		urls = append(urls, startOutside(t, fmt.Sprintf("cluster { name: c, listen: 127.0.0.1:%d, routes: [%s] }", at, strings.Join(routes, ", "))).url)
	}
	s := openAt(t, Config{URL: strings.Join(urls, ","), Replicas: 3})
	const items = 60
	until(t, "the cluster takes items", func() bool {
		_, _, err := s.Put(t.Context(), lane, []byte("first"), "")
		return err == nil
	})
	for i := range items {
		put(t, s, lane, fmt.Sprint(i))
	}
	for n := 0; n <= items; {
		all, err := s.Fetch(t.Context(), lane, 1+n%5, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			if d.Times() != 1 {
				t.Fatalf("%q is delivered for the time %d", d.Item().Data, d.Times())
			}
		}
		if n += len(all); len(all) == 0 {
			left := backlog(t, s, lane)
			t.Fatalf("%d of %d came, and %+v is left", n, items+1, left)
		}
		ack(t, all...)
	}
}
