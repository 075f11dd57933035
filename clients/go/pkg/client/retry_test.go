package client

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "real-time-analytics-platform/api/proto"
)

func TestOnlyCodesThatMayChangeAreSentAgain(t *testing.T) {
	again := map[codes.Code]bool{codes.Unavailable: true, codes.ResourceExhausted: true, codes.DeadlineExceeded: true}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		s := &scripted{answers: []error{status.Error(code, "no")}}
		c := serve(t, s, ClientConfig{MaxRetries: 3})
		_, err := pb.NewEventIngestionServiceClient(c.GetConnection()).
			IngestEvent(context.Background(), &pb.IngestEventRequest{Event: &pb.Event{UserId: "u"}})
		if again[code] && (err != nil || s.calls() != 2) {
			t.Errorf("%v: %d calls, %v; expected to succeed with the second", code, s.calls(), err)
		}
		if !again[code] && (status.Code(err) != code || s.calls() != 1) {
			t.Errorf("%v: %d calls, %v; expected the first answer", code, s.calls(), err)
		}
	}
}

func TestARepeatCarriesTheSameIDAndTheCallersEventStaysAsItWas(t *testing.T) {
	s := &scripted{answers: []error{status.Error(codes.Unavailable, "no"), status.Error(codes.Unavailable, "no")}}
	c := serve(t, s, ClientConfig{MaxRetries: 3})
	events := []*pb.Event{{UserId: "u"}, {UserId: "u", Id: "mine"}}
	answer, err := pb.NewEventIngestionServiceClient(c.GetConnection()).
		IngestEvents(context.Background(), &pb.IngestEventsRequest{Events: events})
	if err != nil || answer.GetProcessedCount() != 2 || len(s.events) != 6 {
		t.Fatal(answer, err, s.events)
	}
	if s.events[0].GetId() == "" || s.events[0].GetId() != s.events[4].GetId() || s.events[5].GetId() != "mine" {
		t.Errorf("ids are not those of the first time: %v", s.events)
	}
	if events[0].GetId() != "" {
		t.Errorf("the caller's event got the id %q", events[0].GetId())
	}
}

func TestACallOfAnUnknownKindIsSentAgainOnlyOnTheServersWord(t *testing.T) {
	request := &pb.StreamConfig{}
	const method = "/some.Service/Write"
	if mayRepeat(method, request) {
		t.Error("a call that may write is not safe to repeat")
	}
	if retryable(status.Error(codes.Unavailable, "connection lost"), false, request) {
		t.Error("it may have been taken when the connection broke")
	}
	if !retryable(refused(t, codes.Unavailable, 0), false, request) {
		t.Error("with RetryInfo it was not taken")
	}
}

func TestRetriesEndWithTheirNumber(t *testing.T) {
	for _, most := range []int{0, 2} {
		s := &scripted{}
		for range 9 {
			s.answers = append(s.answers, status.Error(codes.Unavailable, "no"))
		}
		c := serve(t, s, ClientConfig{MaxRetries: most})
		_, err := pb.NewAnalyticsServiceClient(c.GetConnection()).
			GetAnalyticsSummary(context.Background(), &pb.GetAnalyticsSummaryRequest{})
		if status.Code(err) != codes.Unavailable || s.calls() != most+1 {
			t.Errorf("MaxRetries %d: %d calls, %v", most, s.calls(), err)
		}
	}
}

func TestAWaitThatWouldOutlastTheBudgetIsNotBegun(t *testing.T) {
	s := &scripted{answers: []error{refused(t, codes.ResourceExhausted, time.Hour)}}
	c := serve(t, s, ClientConfig{MaxRetries: 3, RequestTimeout: time.Minute})
	_, err := pb.NewEventIngestionServiceClient(c.GetConnection()).
		IngestEvent(context.Background(), &pb.IngestEventRequest{Event: &pb.Event{Id: "e", UserId: "u"}})
	if status.Code(err) != codes.ResourceExhausted || s.calls() != 1 {
		t.Errorf("%d calls, %v; expected the server's answer at once", s.calls(), err)
	}
}

func TestTheServersWaitIsHonouredAndOursGrows(t *testing.T) {
	asked := refused(t, codes.Unavailable, time.Hour)
	if got := wait(1, time.Millisecond, asked); got != time.Hour {
		t.Errorf("%v is not what the server asks for", got)
	}
	for n := 1; n <= 5; n++ {
		for range 100 {
			got := wait(n, time.Second, status.Error(codes.Unavailable, "no"))
			longest := time.Duration(n) * time.Second
			if got < longest/2 || got > longest {
				t.Fatalf("retry %d after %v: expected %v to %v", n, got, longest/2, longest)
			}
		}
	}
}

func TestTheBudgetIsTheCallersWhereThatIsShorter(t *testing.T) {
	s := &scripted{}
	c := serve(t, s, ClientConfig{MaxRetries: 3})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := pb.NewAnalyticsServiceClient(c.GetConnection()).
		GetAnalyticsSummary(ctx, &pb.GetAnalyticsSummaryRequest{})
	if status.Code(err) != codes.Canceled || s.calls() != 0 {
		t.Errorf("%d calls, %v", s.calls(), err)
	}
}

func TestWhatIsTooLargeIsNotSentAgain(t *testing.T) {
	request := &pb.IngestEventRequest{Event: &pb.Event{Id: string(make([]byte, messageBytesMax+1))}}
	if retryable(status.Error(codes.ResourceExhausted, "too large"), true, request) {
		t.Error("a message over the limit stays over it")
	}
}
