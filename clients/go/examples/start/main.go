// One event, one batch, one stream.
//
//	cd clients/go && go run ./examples/start
//
// TIDEGATE_ADDRESS is another server than localhost:50051.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	pb "real-time-analytics-platform/api/proto"
	"real-time-analytics-platform/pkg/client"
)

func click(user string) *pb.Event {
	return &pb.Event{UserId: user, EventType: pb.EventType_EVENT_TYPE_USER}
}

func send(ctx context.Context, config *client.ClientConfig) error {
	c, err := client.NewClient(config, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	events := pb.NewEventIngestionServiceClient(c.GetConnection())

	one, err := events.IngestEvent(ctx, &pb.IngestEventRequest{Event: click("ada")})
	if err != nil {
		return err
	}
	fmt.Println(one.GetEventId(), one.GetMessage())

	batch := &pb.IngestEventsRequest{Events: []*pb.Event{click("ada"), click("bob")}}
	several, err := events.IngestEvents(ctx, batch)
	if err != nil {
		return err
	}
	fmt.Println(several.GetProcessedCount(), "stored,", several.GetFailedCount(), "not")

	stream, err := events.StreamEvents(ctx)
	if err != nil {
		return err
	}
	for _, user := range []string{"ada", "bob"} {
		event := &pb.StreamEventsRequest_Event{Event: click(user)}
		if err := stream.Send(&pb.StreamEventsRequest{Request: event}); err != nil {
			break // Recv says why.
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		answer, err := stream.Recv() // one for each event, in their order
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
}

func main() {
	config := client.DefaultConfig()
	if address := os.Getenv("TIDEGATE_ADDRESS"); address != "" {
		config.ServerAddress = address
	}
	if err := send(context.Background(), config); err != nil {
		log.Fatal(err)
	}
}
