package kube

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/function"
)

func container(name string, ports ...corev1.ContainerPort) corev1.Container {
	return corev1.Container{Name: name, Ports: ports}
}

func port(name string, n int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: n}
}

func TestPodAddress(t *testing.T) {
	udp := corev1.ContainerPort{Name: "http", ContainerPort: 53, Protocol: corev1.ProtocolUDP}
	for _, c := range []struct {
		name          string
		ip            string
		containers    []corev1.Container
		annotations   map[string]string
		spec          function.Spec
		addr, metrics string
	}{
		{"no port", "198.51.100.7", []corev1.Container{container("f")}, nil, function.Spec{}, "198.51.100.7:8080", "198.51.100.7:8081"},
		{"no containers", "198.51.100.7", nil, nil, function.Spec{}, "198.51.100.7:8080", "198.51.100.7:8081"},
		{"no address yet", "", []corev1.Container{container("f", port("http", 80))}, nil, function.Spec{}, "", ""},
		{"the only one", "198.51.100.7", []corev1.Container{container("f", port("", 5000))}, nil, function.Spec{}, "198.51.100.7:5000", "198.51.100.7:8081"},
		{"the only one is no TCP port", "198.51.100.7", []corev1.Container{container("f", udp)}, nil, function.Spec{}, "198.51.100.7:8080", "198.51.100.7:8081"},
		{"named http", "198.51.100.7", []corev1.Container{container("f", port("admin", 9), port("http", 8082))}, nil, function.Spec{}, "198.51.100.7:8082", "198.51.100.7:8081"},
		{"two without the name", "198.51.100.7", []corev1.Container{container("f", port("a", 1), port("b", 2))}, nil, function.Spec{}, "198.51.100.7:8080", "198.51.100.7:8081"},
		{"the first container's before a sidecar's", "198.51.100.7", []corev1.Container{container("f", port("http", 81)), container("proxy", port("http", 15001))}, nil, function.Spec{}, "198.51.100.7:81", "198.51.100.7:8081"},
		{"a sidecar's that is named", "198.51.100.7", []corev1.Container{container("f"), container("front", port("http", 82))}, nil, function.Spec{}, "198.51.100.7:82", "198.51.100.7:8081"},
		{"the default container's", "198.51.100.7", []corev1.Container{container("proxy", port("", 15001)), container("f", port("", 83))}, map[string]string{defaultContainer: "f"}, function.Spec{}, "198.51.100.7:83", "198.51.100.7:8081"},
		{"asked for", "198.51.100.7", []corev1.Container{container("f", port("http", 84))}, nil, function.Spec{Port: 85, MetricsPort: 86}, "198.51.100.7:85", "198.51.100.7:86"},
		{"IPv6", "2001:db8::7", []corev1.Container{container("f", port("http", 84))}, nil, function.Spec{}, "[2001:db8::7]:84", "[2001:db8::7]:8081"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Spec: corev1.PodSpec{Containers: c.containers}, Status: corev1.PodStatus{PodIP: c.ip}}
		_, kept := readPod(p)
		for range 2 { // the second one is remembered
			if got := kept.addressed(&c.spec); got.Addr != c.addr || got.Metrics != c.metrics {
				t.Errorf("%s: %q and %q, expected %q and %q", c.name, got.Addr, got.Metrics, c.addr, c.metrics)
			}
		}
		other := function.Spec{Port: 1, MetricsPort: 2}
		if got := kept.addressed(&other); c.ip != "" && (got.Addr == c.addr || got.Metrics == c.metrics) {
			t.Errorf("%s: other ports were asked for, and it has %q and %q still", c.name, got.Addr, got.Metrics)
		}
	}
}

func TestReadPod(t *testing.T) {
	created, grace, yes := metav1.NewTime(time.Unix(1700000000, 0)), int64(60), true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "f-1", UID: "u", CreationTimestamp: created, Labels: map[string]string{"app": "f"},
			Annotations:     map[string]string{deletionCost: "7"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "f-abc", Controller: &yes}, {Kind: "Other", Name: "x"}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{container("f"), container("side")}, TerminationGracePeriodSeconds: &grace},
	}
	alive(p, "198.51.100.7")
	p.Status.ContainerStatuses[1].RestartCount = 5 // a sidecar's does not matter
	ns, kept := readPod(p)
	want := function.Pod{Name: "f-1", UID: "u", Ready: true, Created: created.Time, Grace: time.Minute}
	if ns != "ns" || kept.about != want || kept.cost != "7" || kept.uid != "u" || kept.ip != "198.51.100.7" {
		t.Errorf("read as %q %+v", ns, kept)
	}
	if kept.owner != (workloadKey{"ReplicaSet", "f-abc"}) || kept.labels.Get("app") != "f" || kept.labels.Has("x") {
		t.Errorf("owner %v, labels %v", kept.owner, kept.labels)
	}

	p.Status.ContainerStatuses[0].RestartCount = 2
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	p.DeletionTimestamp = &created
	if _, kept = readPod(p); kept.about.UID != "u/2" || kept.about.Ready || !kept.about.Stopping || kept.uid != "u" {
		t.Errorf("restarted, not ready and told to end: %+v", kept.about)
	}
	endless := int64(1) << 62
	p.Spec.TerminationGracePeriodSeconds = &endless
	if _, kept = readPod(p); kept.about.Grace <= 0 {
		t.Errorf("an endless grace is %v", kept.about.Grace)
	}
}

func TestPeersOfRunningPods(t *testing.T) {
	pod := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{container("weir")}}}
		alive(p, "198.51.100.7")
		change(p)
		return p
	}
	soon, past := metav1.NewTime(time.Now().Add(time.Minute)), metav1.NewTime(time.Now().Add(-2*overdue))
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"runs", pod("b", func(*corev1.Pod) {}), true},
		{"itself", pod("a", func(*corev1.Pod) {}), false},
		{"not ready", pod("b", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }), true},
		{"no address", pod("b", func(p *corev1.Pod) { p.Status.PodIP = "" }), false},
		{"pending", pod("b", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), false},
		{"crashed", pod("b", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State = corev1.ContainerState{} }), false},
		{"ending", pod("b", func(p *corev1.Pod) { p.DeletionTimestamp = &soon }), true},
		{"should have ended", pod("b", func(p *corev1.Pod) { p.DeletionTimestamp = &past }), false},
	} {
		all := newPeers(Config{Identity: "a", Peers: "x=y", PeerPort: 8082})
		if all.known() {
			t.Fatal("known before they were read")
		}
		put := func(pod *corev1.Pod) { it, up := all.read(pod); all.put(pod.Name, it, up) }
		put(pod("b", func(*corev1.Pod) {}))
		put(c.pod)
		all.drop("c")
		if c.pod.Name != "b" {
			all.drop("b")
		}
		all.keep(map[object]bool{{"", "a"}: true, {"", "b"}: true})
		got := all.addresses()
		if (len(got) == 1 && got[0] == "198.51.100.7:8082") != c.want || !all.known() {
			t.Errorf("%s: peers %v, expected %t", c.name, got, c.want)
		}
		shares := func(identity string) (rank, weirs int) {
			all.cfg.Identity = identity
			return all.share()
		}
		for identity, want := range map[string][2]int{"0": {0, 1}, "a": {0, 1}, "c": {0, 1}} {
			if c.want { // beside b
				want[1]++
			}
			if identity == "c" && c.want {
				want[0]++
			}
			if identity != "a" && c.pod.Name == "a" { // a is another one then
				continue
			}
			if rank, weirs := shares(identity); rank != want[0] || weirs != want[1] {
				t.Errorf("%s: %s is number %d of %d, expected %v", c.name, identity, rank, weirs, want)
			}
		}
		all.cfg.Identity = "a"
		all.keep(nil)
		if got := all.addresses(); len(got) != 0 {
			t.Errorf("%s: peers %v after all are gone", c.name, got)
		}
	}
}
